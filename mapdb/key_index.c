/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mapdb/key_index.h"

#include <errno.h>
#include <stdlib.h>

static size_t groups(size_t count)
{
	return (count + KEY_INDEX_FANOUT - 1) / KEY_INDEX_FANOUT;
}

/* Every 64th of count keys, filled up with keys that are greater than any. */
static void sample(uint64_t *to, const uint64_t *from, size_t count, size_t stride)
{
	size_t used = groups(count), room = groups(used) * KEY_INDEX_FANOUT;

	for (size_t i = 0; i < used; i++)
		to[i] = *(const uint64_t *)((const char *)from + i * KEY_INDEX_FANOUT * stride);
	for (size_t i = used; i < room; i++)
		to[i] = UINT64_MAX;
}

int key_index_init(struct key_index *index, const uint64_t *first, size_t count, size_t stride)
{
	size_t total = 0;
	uint64_t *keys;

	*index = (struct key_index){0};
	for (size_t n = groups(count); n > 1; n = groups(n))
		total += groups(n) * KEY_INDEX_FANOUT;
	if (total == 0)
		return 0;
	keys = aligned_alloc(KEY_INDEX_LINE, total * sizeof(*keys));
	if (!keys)
		return -ENOMEM;
	for (size_t n = groups(count); n > 1; n = groups(n)) {
		index->keys[index->levels++] = keys;
		sample(keys, first, count, stride);
		first = keys;
		count = n;
		stride = sizeof(*keys);
		keys += groups(n) * KEY_INDEX_FANOUT;
	}
	return 0;
}

void key_index_free(struct key_index *index)
{
	free(index->keys[0]);
	*index = (struct key_index){0};
}

size_t key_index_group(const struct key_index *index, uint64_t key)
{
	size_t group = 0;

	for (unsigned int level = index->levels; level > 0; level--)
		group = group * KEY_INDEX_FANOUT +
		        key_index_place(index->keys[level - 1] + group * KEY_INDEX_FANOUT, 1, key);
	return group;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * key_index: finds the place of a number in a long sorted array with two or three accesses to memory instead of twenty.
 *
 * Every 64th key of the array is copied, every 64th of the copies, and so on up to a level of 64 or less. A search
 * looks at six of 64 neighbours on each level, without a branch to guess wrong, and has all of them fetched at once:
 * what it costs are the levels that are not in the processor's caches, and between two requests' copying only a few KiB
 * stay there. An eighth of a byte for each key of the array. Immutable; any thread.
 */
#ifndef ZCFS_KEY_INDEX_H
#define ZCFS_KEY_INDEX_H

#include <stddef.h>
#include <stdint.h>

#define KEY_INDEX_BITS   6u
#define KEY_INDEX_FANOUT (1u << KEY_INDEX_BITS)
#define KEY_INDEX_LEVELS 5u /* 64^6 keys */

#define KEY_INDEX_LINE 64u /* bytes of the processor's cache that are fetched at once */

/* How many keys an array of count must have room for: it is filled up with greater ones to whole groups. */
#define KEY_INDEX_ROOM(count) (((size_t)(count) + KEY_INDEX_FANOUT - 1) / KEY_INDEX_FANOUT * KEY_INDEX_FANOUT)

struct key_index {
	unsigned int levels;
	uint64_t *keys[KEY_INDEX_LEVELS]; /* lowest first, each filled up to a multiple of the fanout; one allocation */
};

/* Over count keys at first, first + stride, ... (stride in bytes), ascending. 0 or -ENOMEM. */
int key_index_init(struct key_index *index, const uint64_t *first, size_t count, size_t stride);
void key_index_free(struct key_index *index); /* zeroed memory is allowed */

/* The number of the group of KEY_INDEX_FANOUT keys in which the last key is that is not greater than key. There must be
 * one. */
size_t key_index_group(const struct key_index *index, uint64_t key);

/* The place of that key in its group, whose keys are at group, group + stride, ... (stride in keys). */
static inline size_t key_index_place(const uint64_t *group, size_t stride, uint64_t key)
{
	size_t place = 0;

	for (size_t i = 0; i < KEY_INDEX_FANOUT * stride; i += KEY_INDEX_LINE / sizeof(*group))
		__builtin_prefetch(&group[i]);
	for (size_t half = KEY_INDEX_FANOUT / 2; half > 0; half /= 2)
		place += group[(place + half) * stride] <= key ? half : 0;
	return place;
}

#endif

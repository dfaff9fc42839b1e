/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/gaps.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int gaps_build(struct gaps *gaps, struct run_list *from)
{
	*gaps = (struct gaps){.runs = *from, .base = 1};
	*from = (struct run_list){0};
	while (gaps->base < gaps->runs.count)
		gaps->base *= 2;
	gaps->tree = calloc(2 * gaps->base, sizeof(*gaps->tree));
	if (!gaps->tree) {
		gaps_free(gaps);
		return -ENOMEM;
	}
	for (size_t i = 0; i < gaps->runs.count; i++)
		gaps->tree[gaps->base + i] = gaps->runs.runs[i].length;
	for (size_t i = gaps->base - 1; i; i--)
		gaps->tree[i] = gaps->tree[2 * i] > gaps->tree[2 * i + 1] ? gaps->tree[2 * i] : gaps->tree[2 * i + 1];
	return 0;
}

void gaps_free(struct gaps *gaps)
{
	run_list_free(&gaps->runs);
	free(gaps->tree);
	*gaps = (struct gaps){0};
}

uint64_t gaps_longest(const struct gaps *gaps)
{
	return gaps->tree[1];
}

size_t gaps_first_fit(const struct gaps *gaps, uint64_t length)
{
	size_t i = 1;
	assert(length);
	if (gaps->tree[1] < length)
		return GAP_NONE;
	while (i < gaps->base)
		i = gaps->tree[2 * i] >= length ? 2 * i : 2 * i + 1;
	return i - gaps->base;
}

size_t gaps_find_longest(const struct gaps *gaps)
{
	return gaps->tree[1] ? gaps_first_fit(gaps, gaps->tree[1]) : GAP_NONE;
}

uint64_t gaps_take(struct gaps *gaps, size_t index, uint64_t length)
{
	struct run *run = &gaps->runs.runs[index];
	uint64_t lcn = run->lcn;
	assert(length <= run->length);
	run->lcn += length;
	run->length -= length;
	size_t i = gaps->base + index;
	gaps->tree[i] = run->length;
	for (i /= 2; i; i /= 2)
		gaps->tree[i] = gaps->tree[2 * i] > gaps->tree[2 * i + 1] ? gaps->tree[2 * i] : gaps->tree[2 * i + 1];
	return lcn;
}

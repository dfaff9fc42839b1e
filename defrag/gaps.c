/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/gaps.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NO_GAP UINT32_MAX

/* ---- short gaps by length ---- */

static void list_add(struct gaps *gaps, uint32_t index)
{
	uint64_t length = gaps->runs.runs[index].length;
	if (!length || length >= GAP_SHORT)
		return;
	uint32_t *first = &gaps->first[length];
	gaps->links[index] = (struct gap_link){.next = *first, .previous = NO_GAP};
	if (*first != NO_GAP)
		gaps->links[*first].previous = index;
	*first = index;
	gaps->present[length / 64] |= UINT64_C(1) << (length % 64);
}

static void list_remove(struct gaps *gaps, uint32_t index)
{
	uint64_t length = gaps->runs.runs[index].length;
	if (!length || length >= GAP_SHORT)
		return;
	struct gap_link link = gaps->links[index];
	if (link.next != NO_GAP)
		gaps->links[link.next].previous = link.previous;
	if (link.previous != NO_GAP)
		gaps->links[link.previous].next = link.next;
	else
		gaps->first[length] = link.next;
	if (gaps->first[length] == NO_GAP)
		gaps->present[length / 64] &= ~(UINT64_C(1) << (length % 64));
}

size_t gaps_best_fit(const struct gaps *gaps, uint64_t length)
{
	for (uint64_t word = length / 64; word < GAP_SHORT / 64; word++) {
		uint64_t bits = gaps->present[word];
		if (word == length / 64)
			bits &= UINT64_MAX << (length % 64);
		if (bits)
			return gaps->first[word * 64 + (unsigned int)__builtin_ctzll(bits)];
	}
	return gaps_first_fit(gaps, length);
}

/* ---- all gaps ---- */

static void build_tree(struct gaps *gaps)
{
	for (size_t i = 0; i < gaps->runs.count; i++)
		gaps->tree[gaps->base + i] = gaps->runs.runs[i].length;
	for (size_t i = gaps->base - 1; i; i--)
		gaps->tree[i] = gaps->tree[2 * i] > gaps->tree[2 * i + 1] ? gaps->tree[2 * i] : gaps->tree[2 * i + 1];
	memset(gaps->first, 0xff, GAP_SHORT * sizeof(*gaps->first));
	for (size_t i = gaps->runs.count; i--;) /* backwards: of equal ones the lowest comes first */
		list_add(gaps, (uint32_t)i);
}

int gaps_build(struct gaps *gaps, struct run_list *from)
{
	*gaps = (struct gaps){.runs = *from, .base = 1};
	*from = (struct run_list){0};
	while (gaps->base < gaps->runs.count)
		gaps->base *= 2;
	gaps->tree = calloc(2 * gaps->base, sizeof(*gaps->tree));
	gaps->links = malloc((gaps->runs.count + 1) * sizeof(*gaps->links));
	gaps->first = malloc(GAP_SHORT * sizeof(*gaps->first));
	gaps->present = calloc(GAP_SHORT / 64, sizeof(*gaps->present));
	if (!gaps->tree || !gaps->links || !gaps->first || !gaps->present || gaps->runs.count >= NO_GAP) {
		gaps_free(gaps);
		return -ENOMEM;
	}
	build_tree(gaps);
	return 0;
}

void gaps_free(struct gaps *gaps)
{
	run_list_free(&gaps->runs);
	free(gaps->tree);
	free(gaps->links);
	free(gaps->first);
	free(gaps->present);
	*gaps = (struct gaps){0};
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
	list_remove(gaps, (uint32_t)index);
	run->lcn += length;
	run->length -= length;
	list_add(gaps, (uint32_t)index);
	size_t i = gaps->base + index;
	gaps->tree[i] = run->length;
	for (i /= 2; i; i /= 2)
		gaps->tree[i] = gaps->tree[2 * i] > gaps->tree[2 * i + 1] ? gaps->tree[2 * i] : gaps->tree[2 * i + 1];
	return lcn;
}

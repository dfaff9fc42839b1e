/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * gaps: free space as an ordered array of runs that are consumed from their fronts, with a tree of maxima over it that
 * finds the lowest gap of at least a given length in O(log n).
 */
#ifndef ZCFS_GAPS_H
#define ZCFS_GAPS_H

#include <stddef.h>
#include <stdint.h>

#include "defrag/run_list.h"

struct gaps {
	struct run_list runs; /* in LCN order; length 0 once used up */
	uint64_t *tree;	      /* tree[1] is the root; leaves from base on */
	size_t base;
};

#define GAP_NONE SIZE_MAX

/* Takes the runs (sorted, not overlapping) over, also on error; *from becomes empty. -ENOMEM. */
int gaps_build(struct gaps *gaps, struct run_list *from);
void gaps_free(struct gaps *gaps);

uint64_t gaps_longest(const struct gaps *gaps); /* clusters; 0 if there is none */
/* Index of the lowest gap of at least length clusters, or GAP_NONE. length > 0. */
size_t gaps_first_fit(const struct gaps *gaps, uint64_t length);
/* Index of a longest gap. GAP_NONE if all are used up. */
size_t gaps_find_longest(const struct gaps *gaps);
/* Takes length clusters from the front of a gap that has them. Returns the first LCN. */
uint64_t gaps_take(struct gaps *gaps, size_t index, uint64_t length);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * gaps: free space as an ordered array of runs that are consumed from their fronts. A tree of maxima over it finds the
 * lowest gap of at least a given length in O(log n); lists of the short gaps by length find the tightest one.
 */
#ifndef ZCFS_GAPS_H
#define ZCFS_GAPS_H

#include <stddef.h>
#include <stdint.h>

#include "defrag/run_list.h"

struct gaps {
	struct run_list runs; /* in LCN order; length 0 once used up */
	uint64_t *tree;       /* tree[1] is the root; leaves from base on */
	size_t base;
	struct gap_link *links; /* of each gap: its neighbours among those of its length */
	uint32_t *first;        /* by length: the first gap that long, or none; for lengths below GAP_SHORT */
	uint64_t *present;      /* bits: which of those lengths there are */
};

struct gap_link {
	uint32_t next, previous;
};

#define GAP_NONE  SIZE_MAX
#define GAP_SHORT 4096u /* clusters; longer gaps are few */

/* Takes the runs (sorted, not overlapping) over, also on error; *from becomes empty. -ENOMEM. */
int gaps_build(struct gaps *gaps, struct run_list *from);
void gaps_free(struct gaps *gaps);

/* Index of the lowest gap of at least length clusters, or GAP_NONE. length > 0. */
size_t gaps_first_fit(const struct gaps *gaps, uint64_t length);
/* Index of the shortest gap of at least length clusters; among gaps that are not short, the lowest. */
size_t gaps_best_fit(const struct gaps *gaps, uint64_t length);
/* Index of a longest gap. GAP_NONE if all are used up. */
size_t gaps_find_longest(const struct gaps *gaps);
/* Takes length clusters from the front of a gap that has them. Returns the first LCN. */
uint64_t gaps_take(struct gaps *gaps, size_t index, uint64_t length);

#endif

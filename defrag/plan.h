/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * plan: where everything should be. Pure: arrays in, arrays out; knows nothing of NTFS, I/O or databases.
 *
 * An object is something that should lie in one piece (an attribute's clusters). All moves happen at once, by renaming
 * clusters, so the clusters of every object that is to move count as free beforehand and a full volume can be planned
 * as well as an empty one.
 *
 * By default contiguous objects stay; fragmented ones go, the longest first, to the tightest gap that takes them whole
 * (best fit decreasing). Only if some fit nowhere is everything laid out anew (first fit decreasing, which is denser),
 * unless that is not wanted. What fits nowhere even then is divided into as few pieces as possible. Of the plans that
 * come of this the one that leaves the fewest pieces is taken, of equal ones that which moves less.
 */
#ifndef ZCFS_PLAN_H
#define ZCFS_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "defrag/run_list.h"

enum plan_kind {
	PLAN_MOVABLE,
	PLAN_PINNED,   /* stays where it is, in as many pieces as it has */
	PLAN_LEFT,     /* like PINNED if it is in one piece, else MOVABLE */
	PLAN_UNWANTED, /* like PINNED, but nobody asks why */
	PLAN_ANCHORED, /* keeps its first cluster's place; the rest should follow it. At most one object. */
};

struct plan_object {
	uint64_t length;     /* clusters: the sum of its pieces */
	uint64_t max_start;  /* the highest LCN at which it may begin; UINT64_MAX: anywhere */
	uint32_t first_run;  /* in plan_input.runs: its pieces in order, merged, no holes */
	uint32_t run_count;  /* pieces now */
	uint16_t max_pieces; /* as many as may be made of it, if it must be divided; at least 1 */
	uint8_t kind;        /* enum plan_kind */
	uint8_t rank;        /* lower ones are placed first */
	bool never_more;     /* pieces than now, however few that leaves of others */
};

struct plan_input {
	const struct plan_object *objects;
	size_t object_count;
	const struct run *runs;      /* pieces of all objects */
	const struct run_list *free; /* sorted, merged. What is neither free nor an object's is nobody's to move. */
	bool pack;                   /* lay everything out anew, by rank and order of the objects */
	const uint32_t *order;       /* with pack: what place each object has in that order; NULL: as they are given */
	bool in_place;               /* never lay everything out anew, even if something fits nowhere */
};

enum plan_reason {
	PLAN_OK,
	PLAN_STAYS_PINNED,      /* may not be moved */
	PLAN_STAYS_RECORD_FULL, /* the run list of its new place would not fit */
	PLAN_STAYS_NO_GAP,      /* no gap between what must stay is long enough */
	PLAN_STAYS_OBSTACLE,    /* something that must stay is behind its anchor */
};

#define PLAN_STAYS UINT32_MAX

struct plan_target {
	uint32_t first_piece; /* in plan.pieces, or PLAN_STAYS */
	uint32_t piece_count;
	uint8_t reason; /* enum plan_reason: why it is (still, or newly) in more than one piece */
};

struct plan {
	struct plan_target *targets; /* of each object */
	struct run_list pieces;
	bool anew; /* everything was laid out anew */
};

/* "What will be at new_lcn is now at old_lcn", for length clusters. */
struct plan_move {
	uint64_t new_lcn;
	uint64_t old_lcn;
	uint64_t length;
};

/* 0 or -ENOMEM; -EINVAL: the input contradicts itself (overlapping objects and free space). */
int plan_make(const struct plan_input *input, struct plan *plan);
void plan_free(struct plan *plan);

/* The permutation of clusters that carries a plan out. */
struct plan_permutation {
	struct plan_move *moves; /* sorted by new_lcn; a bijection of the clusters concerned onto themselves */
	size_t count;
	struct run_list entered; /* sorted: free before, occupied by objects afterwards */
	struct run_list left;    /* sorted: the reverse */
};

/* Free clusters that objects move into change places with those they leave, in order, which takes few pieces.
 * -ENOMEM, -EINVAL: the plan is no permutation. */
int plan_permute(const struct plan_input *input, const struct plan *plan, struct plan_permutation *permutation);
void plan_permutation_free(struct plan_permutation *permutation);

#endif

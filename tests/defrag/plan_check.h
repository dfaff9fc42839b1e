/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * plan_check: what must hold for every plan, judged cluster by cluster: a plan moves only what may move, to where
 * nothing else is, within the limits that it was given, and the permutation carries it out exactly. Failures end the
 * test.
 */
#ifndef ZCFS_TESTS_PLAN_CHECK_H
#define ZCFS_TESTS_PLAN_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "defrag/plan.h"

#define CLUSTERS_MAX 3000u
#define OBJECTS_MAX  400u
#define FREE         (-1) /* owners of clusters that are no object's */
#define LOST         (-2)

/* A volume as a plain array, and the same as the planner's input. */
struct volume {
	uint64_t clusters;
	int owner[CLUSTERS_MAX];
	struct plan_object objects[OBJECTS_MAX];
	size_t count;
	struct run_list runs, free;
	struct plan_input input;
};

/* Adds an object that owns these pieces, of which nobody was the owner. Length and runs are filled in. */
void volume_add_object(struct volume *v, struct plan_object object, const struct run *pieces, size_t count);
/* After the last object. */
void volume_fill_input(struct volume *v, bool pack);
/* Of all objects together; before the plan if it is NULL. */
uint64_t volume_pieces(const struct volume *v, const struct plan *plan);

void check_plan(const struct volume *v, const struct plan *plan);
/* Another plan for the result moves something only if that leaves fewer pieces: nothing is moved to and fro. */
void check_plan_settles(const struct volume *v, const struct plan *plan);
/* If all is in one piece, as far as it may be moved, there is nothing left to do. False if it is not. */
bool check_nothing_left(const struct volume *v, const struct plan *plan);

#endif

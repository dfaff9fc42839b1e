/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: whatever the volume, a plan moves only what may move, to where nothing else is, within the limits that it
 * was given (plan_check.h); by default it touches no more than it must and leaves nothing for a second pass; the
 * permutation carries it out exactly. The amount of work follows the number of objects and gaps.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "defrag/gaps.h"
#include "tests/defrag/plan_check.h"
#include "tests/mapdb/check.h"

#define ROUNDS 4000

static struct volume now;

/* ---- random volumes ---- */

/* Cuts the volume into stretches and deals them out to objects, to the free space, and to nobody. */
static size_t make_stretches(struct volume *v, struct run *stretches, int *owners, uint64_t longest)
{
	unsigned int free_share = (unsigned int)random_below(4) ? (unsigned int)random_below(60) : 0;
	unsigned int lost_share = (unsigned int)random_below(3) ? 0 : (unsigned int)random_below(20);
	size_t objects = 1 + random_below(random_below(2) ? 8 : OBJECTS_MAX), count = 0;
	for (uint64_t lcn = 0; lcn < v->clusters; count++) {
		uint64_t length = 1 + random_below(longest), dice = random_below(100);
		if (length > v->clusters - lcn)
			length = v->clusters - lcn;
		stretches[count] = (struct run){.lcn = lcn, .length = length};
		owners[count] = dice < free_share                ? FREE
		                : dice < free_share + lost_share ? LOST
		                                                 : (int)random_below(objects);
		lcn += length;
	}
	return count;
}

static void shuffle(struct run *runs, size_t count)
{
	for (size_t i = count; i > 1; i--) {
		size_t k = random_below(i);
		struct run swap = runs[i - 1];
		runs[i - 1] = runs[k];
		runs[k] = swap;
	}
}

static void add_object(struct volume *v, struct run *pieces, size_t count)
{
	static const uint8_t kinds[] = {PLAN_MOVABLE, PLAN_MOVABLE, PLAN_MOVABLE, PLAN_MOVABLE,
	                                PLAN_PINNED,  PLAN_LEFT,    PLAN_UNWANTED};
	const struct plan_object object = {
	        .max_start = random_below(8) ? UINT64_MAX : random_below(v->clusters),
	        .max_pieces = random_below(3) ? UINT16_MAX : (uint16_t)(1 + random_below(6)),
	        .kind = kinds[random_below(sizeof(kinds))],
	        .rank = (uint8_t)random_below(4),
	        .never_more = random_below(4) == 0,
	};
	if (random_below(2))
		shuffle(pieces, count);
	volume_add_object(v, object, pieces, count);
}

static void make_volume(struct volume *v)
{
	static struct run stretches[CLUSTERS_MAX], pieces[CLUSTERS_MAX];
	static int owners[CLUSTERS_MAX];
	v->clusters = 1 + random_below(random_below(4) ? 80 : CLUSTERS_MAX);
	v->count = v->runs.count = 0;
	size_t count = make_stretches(v, stretches, owners, 1 + random_below(random_below(2) ? 6 : 60));
	for (size_t i = 0; i < count; i++)
		for (uint64_t k = 0; k < stretches[i].length; k++)
			v->owner[stretches[i].lcn + k] = owners[i] < 0 ? owners[i] : LOST;
	for (int object = 0; object < (int)OBJECTS_MAX; object++) {
		size_t found = 0;
		for (size_t i = 0; i < count; i++)
			if (owners[i] == object)
				pieces[found++] = stretches[i];
		if (found)
			add_object(v, pieces, found);
	}
	if (v->count && random_below(3))
		v->objects[random_below(v->count)].kind = PLAN_ANCHORED;
	volume_fill_input(v, random_below(3) == 0);
	v->input.in_place = random_below(3) == 0;
}

static void check_random_volumes(void)
{
	unsigned int perfect = 0; /* volumes of which everything could be put into one piece */
	for (unsigned int round = 0; round < ROUNDS; round++) {
		struct plan plan;
		make_volume(&now);
		check_context("random volume %u: %llu clusters, %zu objects%s%s", round,
		              (unsigned long long)now.clusters, now.count, now.input.pack ? ", packed" : "",
		              now.input.in_place ? ", in place" : "");
		CHECK_IS(plan_make(&now.input, &plan), 0);
		check_plan(&now, &plan);
		if (!now.input.pack) {
			CHECK(volume_pieces(&now, &plan) <= volume_pieces(&now, NULL));
			check_plan_settles(&now, &plan);
			perfect += check_nothing_left(&now, &plan);
		}
		plan_free(&plan);
	}
	CHECK(perfect > ROUNDS / 20);
}

/* Two objects at one place, or an object where it is free, are not planned over. */
static void check_contradictions(void)
{
	struct run runs[] = {
	        {.lcn = 0, .length = 2}, {.lcn = 4, .length = 2}, {.lcn = 5, .length = 1}, {.lcn = 8, .length = 1}};
	struct run free_runs[] = {{.lcn = 12, .length = 4}};
	struct run_list free_list = {.runs = free_runs, .count = 1};
	struct plan_object objects[] = {
	        {.length = 4, .max_start = UINT64_MAX, .run_count = 2, .max_pieces = 9},
	        {.length = 2, .max_start = UINT64_MAX, .first_run = 2, .run_count = 2, .max_pieces = 9},
	};
	struct plan_input input = {.objects = objects, .object_count = 2, .runs = runs, .free = &free_list};
	struct plan plan;
	CHECK_IS(plan_make(&input, &plan), -EINVAL);
	runs[2].lcn = 13;
	CHECK_IS(plan_make(&input, &plan), -EINVAL);
	runs[2].lcn = 6;
	CHECK_IS(plan_make(&input, &plan), 0);
	plan_free(&plan);
}

/* Where nothing is free and not everything may be moved, one object stays in pieces so that the others need not. */
static void check_crowded(void)
{
	struct run pieces[] = {{0, 3}, {17, 4}, {6, 4}, {11, 3}, {3, 3}, {14, 3}, {10, 1}};
	const struct plan_object any = {.max_start = UINT64_MAX, .max_pieces = 9};
	struct plan plan;
	now.clusters = 21;
	now.count = now.runs.count = 0;
	for (size_t i = 0; i < 3; i++)
		volume_add_object(&now, any, pieces + 2 * i, 2);
	volume_add_object(&now, (struct plan_object){.kind = PLAN_UNWANTED}, pieces + 6, 1);
	volume_fill_input(&now, false);
	CHECK_IS(now.free.count, 0);
	now.input.in_place = true;
	CHECK_IS(plan_make(&now.input, &plan), 0);
	check_plan(&now, &plan);
	CHECK(volume_pieces(&now, &plan) < volume_pieces(&now, NULL));
	check_plan_settles(&now, &plan);
	plan_free(&plan);
}

/* Packed, objects of a rank lie in the order that was asked for. */
static void check_order(void)
{
	static const uint32_t order[] = {3, 0, 4, 1, 2};
	struct run runs[10];
	struct plan_object objects[5];
	struct run free_runs[] = {{.lcn = 30, .length = 10}};
	struct run_list free_list = {.runs = free_runs, .count = 1};
	struct plan plan;
	for (uint32_t i = 0; i < 5; i++) {
		runs[2 * i] = (struct run){.lcn = 3ul * i, .length = 3};
		runs[2 * i + 1] = (struct run){.lcn = 15 + 3ul * i, .length = 3};
		objects[i] = (struct plan_object){.length = 6,
		                                  .max_start = UINT64_MAX,
		                                  .first_run = 2 * i,
		                                  .run_count = 2,
		                                  .max_pieces = 9,
		                                  .rank = i == 1};
	}
	struct plan_input input = {
	        .objects = objects, .object_count = 5, .runs = runs, .free = &free_list, .pack = true, .order = order};
	CHECK_IS(plan_make(&input, &plan), 0);
	for (uint32_t i = 0; i < 5; i++)
		for (uint32_t k = 0; k < 5; k++)
			if (objects[i].rank == objects[k].rank && order[i] < order[k])
				CHECK(plan.pieces.runs[plan.targets[i].first_piece].lcn <
				      plan.pieces.runs[plan.targets[k].first_piece].lcn);
	plan_free(&plan);
}

/* Something contiguous is in the way of the anchored object and fits nowhere else: it stays, and so does all else that
 * is not fragmented. */
static void check_obstacle(void)
{
	const struct plan_object any = {.max_start = UINT64_MAX, .max_pieces = 9};
	const struct plan_object anchored = {.max_start = UINT64_MAX, .max_pieces = 9, .kind = PLAN_ANCHORED};
	struct run pieces[] = {{0, 2}, {22, 1}, {2, 10}, {12, 2}, {14, 1}, {21, 1}, {20, 1}};
	struct plan plan;
	now.clusters = 24;
	now.count = now.runs.count = 0;
	for (uint64_t lcn = 0; lcn < now.clusters; lcn++)
		now.owner[lcn] = lcn >= 16 && lcn < 20 ? FREE : LOST;
	volume_add_object(&now, anchored, pieces, 2);
	volume_add_object(&now, any, pieces + 2, 1);
	volume_add_object(&now, any, pieces + 3, 1);
	volume_add_object(&now, any, pieces + 4, 2);
	volume_add_object(&now, any, pieces + 6, 1);
	volume_fill_input(&now, false);
	CHECK_IS(plan_make(&now.input, &plan), 0);
	CHECK(!plan.anew);
	for (size_t i = 0; i < now.count; i++) {
		check_context("object %zu", i);
		CHECK_IS(plan.targets[i].first_piece != PLAN_STAYS, i == 3);
	}
	plan_free(&plan);
}

/* ---- work ---- */

static uint64_t steps;

/* The linker puts these before the real ones (--wrap). */
size_t __real_gaps_first_fit(const struct gaps *gaps, uint64_t length);
size_t __wrap_gaps_first_fit(const struct gaps *gaps, uint64_t length);
size_t __real_gaps_best_fit(const struct gaps *gaps, uint64_t length);
size_t __wrap_gaps_best_fit(const struct gaps *gaps, uint64_t length);
uint64_t __real_gaps_take(struct gaps *gaps, size_t index, uint64_t length);
uint64_t __wrap_gaps_take(struct gaps *gaps, size_t index, uint64_t length);
int __real_gaps_build(struct gaps *gaps, struct run_list *from);
int __wrap_gaps_build(struct gaps *gaps, struct run_list *from);

size_t __wrap_gaps_first_fit(const struct gaps *gaps, uint64_t length)
{
	steps++;
	return __real_gaps_first_fit(gaps, length);
}

size_t __wrap_gaps_best_fit(const struct gaps *gaps, uint64_t length)
{
	steps++;
	return __real_gaps_best_fit(gaps, length);
}

uint64_t __wrap_gaps_take(struct gaps *gaps, size_t index, uint64_t length)
{
	steps++;
	return __real_gaps_take(gaps, index, length);
}

int __wrap_gaps_build(struct gaps *gaps, struct run_list *from)
{
	steps += from->count;
	return __real_gaps_build(gaps, from);
}

/* Interleaved objects of three pieces each; every stride-th cluster is nobody's, so that nothing long fits anywhere. */
static uint64_t count_steps(uint32_t objects, unsigned int piece, unsigned int stride, bool pack)
{
	struct plan_object *list = calloc(objects, sizeof(*list));
	struct run *runs = calloc(3ul * objects, sizeof(*runs));
	struct run_list free_list = {0};
	struct plan plan;
	CHECK(list && runs);
	uint64_t lcn = 0;
	for (uint32_t k = 0; k < 3; k++) {
		for (uint32_t i = 0; i < objects; i++) {
			runs[3ul * i + k] = (struct run){.lcn = lcn, .length = piece};
			lcn += piece;
			lcn += stride && i % stride == 0;
		}
	}
	CHECK_IS(run_list_push(&free_list, lcn, 8), 0);
	for (uint32_t i = 0; i < objects; i++)
		list[i] = (struct plan_object){.length = 3ul * piece,
		                               .max_start = i % 7 ? UINT64_MAX : 5ul * i,
		                               .first_run = 3 * i,
		                               .run_count = 3,
		                               .max_pieces = (uint16_t)(1 + i % 5),
		                               .kind = PLAN_MOVABLE};
	struct plan_input input = {
	        .objects = list, .object_count = objects, .runs = runs, .free = &free_list, .pack = pack};
	steps = 0;
	CHECK_IS(plan_make(&input, &plan), 0);
	plan_free(&plan);
	run_list_free(&free_list);
	free(list);
	free(runs);
	return steps;
}

static void check_scaling(void)
{
	static const unsigned int strides[] = {0, 1, 3, 50};
	for (size_t i = 0; i < sizeof(strides) / sizeof(*strides); i++) {
		for (unsigned int pack = 0; pack < 2; pack++) {
			uint64_t taken = count_steps(32000, 5, strides[i], pack);
			check_context("stride %u%s: %llu steps for 32000 objects", strides[i], pack ? ", packed" : "",
			              (unsigned long long)taken);
			CHECK(taken < 32000 * 300ul); /* some rounds, each linear */
		}
	}
}

int main(void)
{
	random_start();
	check_contradictions();
	check_crowded();
	check_order();
	check_obstacle();
	check_scaling();
	check_random_volumes();
	run_list_free(&now.runs);
	run_list_free(&now.free);
	return 0;
}

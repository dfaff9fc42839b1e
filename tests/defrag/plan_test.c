/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: whatever the volume, a plan moves only what may move, to where nothing else is, within the limits that it
 * was given; by default it touches no more than it must and leaves nothing for a second pass; the permutation carries
 * it out exactly. The amount of work follows the number of objects and gaps.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "defrag/gaps.h"
#include "defrag/plan.h"
#include "tests/mapdb/check.h"

#define ROUNDS       4000
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

static struct volume now, next;
static int owner_after[CLUSTERS_MAX];
static uint64_t old_of[CLUSTERS_MAX]; /* by the permutation */

/* ---- random volumes ---- */

static void fill_input(struct volume *v, bool pack)
{
	v->free.count = 0;
	for (uint64_t i = 0; i < v->clusters; i++)
		if (v->owner[i] == FREE)
			CHECK_IS(run_list_push_merged(&v->free, 0, i, 1), 0);
	v->input = (struct plan_input){
	        .clusters = v->clusters,
	        .objects = v->objects,
	        .object_count = v->count,
	        .runs = v->runs.runs,
	        .free = &v->free,
	        .pack = pack,
	};
}

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
	static const uint8_t kinds[] = {PLAN_MOVABLE, PLAN_MOVABLE, PLAN_MOVABLE, PLAN_MOVABLE, PLAN_PINNED, PLAN_LEFT};
	struct plan_object *object = &v->objects[v->count];
	*object = (struct plan_object){
	        .first_run = (uint32_t)v->runs.count,
	        .max_start = random_below(8) ? UINT64_MAX : random_below(v->clusters),
	        .max_pieces = random_below(3) ? UINT16_MAX : (uint16_t)(1 + random_below(6)),
	        .kind = kinds[random_below(sizeof(kinds))],
	        .rank = (uint8_t)random_below(4),
	};
	if (random_below(2))
		shuffle(pieces, count);
	for (size_t i = 0; i < count; i++) {
		CHECK_IS(run_list_push_merged(&v->runs, object->first_run, pieces[i].lcn, pieces[i].length), 0);
		object->length += pieces[i].length;
		for (uint64_t k = 0; k < pieces[i].length; k++)
			v->owner[pieces[i].lcn + k] = (int)v->count;
	}
	object->run_count = (uint32_t)(v->runs.count - object->first_run);
	v->count++;
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
	fill_input(v, random_below(3) == 0);
}

/* ---- what must hold ---- */

static bool moves(const struct plan *plan, size_t object)
{
	return plan->targets[object].first_piece != PLAN_STAYS;
}

static const struct run *pieces_of(const struct volume *v, const struct plan *plan, size_t i, uint32_t *count)
{
	*count = moves(plan, i) ? plan->targets[i].piece_count : v->objects[i].run_count;
	return moves(plan, i) ? plan->pieces.runs + plan->targets[i].first_piece
	                      : v->runs.runs + v->objects[i].first_run;
}

/* Where everything is afterwards; no two things at one place, all of every object there. */
static void lay_out(const struct volume *v, const struct plan *plan)
{
	for (uint64_t i = 0; i < v->clusters; i++)
		owner_after[i] = v->owner[i] == LOST ? LOST : FREE;
	for (size_t i = 0; i < v->count; i++) {
		uint32_t count;
		uint64_t total = 0;
		const struct run *pieces = pieces_of(v, plan, i, &count);
		for (uint32_t k = 0; k < count; k++) {
			CHECK(pieces[k].length && pieces[k].lcn < v->clusters);
			CHECK(pieces[k].length <= v->clusters - pieces[k].lcn);
			CHECK(!k || pieces[k].lcn != pieces[k - 1].lcn + pieces[k - 1].length);
			for (uint64_t c = 0; c < pieces[k].length; c++) {
				CHECK_IS(owner_after[pieces[k].lcn + c], FREE);
				owner_after[pieces[k].lcn + c] = (int)i;
			}
			total += pieces[k].length;
		}
		CHECK_IS(total, v->objects[i].length);
	}
}

static void check_free(const struct volume *v, const struct plan *plan)
{
	uint64_t at = 0;
	for (size_t i = 0; i < plan->free.count; i++) {
		struct run run = plan->free.runs[i];
		CHECK(run.length && run.lcn >= at);
		for (; at < run.lcn; at++)
			CHECK(owner_after[at] != FREE);
		for (; at < run.lcn + run.length; at++)
			CHECK_IS(owner_after[at], FREE);
	}
	for (; at < v->clusters; at++)
		CHECK(owner_after[at] != FREE);
}

static size_t anchored_object(const struct volume *v)
{
	for (size_t i = 0; i < v->count; i++)
		if (v->objects[i].kind == PLAN_ANCHORED)
			return i;
	return SIZE_MAX;
}

/* It lies where the anchored object, which moves, must grow. */
static bool is_in_the_way(const struct volume *v, const struct plan *plan, size_t object)
{
	size_t anchored = anchored_object(v);
	if (anchored == SIZE_MAX || !moves(plan, anchored))
		return false;
	uint64_t from = v->runs.runs[v->objects[anchored].first_run].lcn, to = from + v->objects[anchored].length;
	const struct run *run = &v->runs.runs[v->objects[object].first_run];
	return run->lcn < to && from < run->lcn + run->length;
}

static void check_object(const struct volume *v, const struct plan *plan, size_t i)
{
	const struct plan_object *object = &v->objects[i];
	const struct plan_target *target = &plan->targets[i];
	uint32_t count;
	const struct run *first = pieces_of(v, plan, i, &count);
	CHECK_IS(target->reason == PLAN_OK, count == 1);
	if (object->kind == PLAN_ANCHORED)
		CHECK_IS(first->lcn, v->runs.runs[object->first_run].lcn);
	if (!moves(plan, i))
		return;
	CHECK(object->kind != PLAN_PINNED);
	CHECK(object->kind == PLAN_ANCHORED || first->lcn <= object->max_start);
	CHECK(count == 1 || count <= object->max_pieces);
	if (object->run_count == 1) {
		CHECK(object->kind != PLAN_LEFT);
		CHECK(plan->anew || is_in_the_way(v, plan, i));
	}
}

static uint64_t total_pieces(const struct volume *v, const struct plan *plan)
{
	uint64_t total = 0;
	for (size_t i = 0; i < v->count; i++)
		total += plan && moves(plan, i) ? plan->targets[i].piece_count : v->objects[i].run_count;
	return total;
}

/* ---- the permutation ---- */

static void check_bijection(const struct volume *v, const struct plan_permutation *p)
{
	static uint8_t left[CLUSTERS_MAX], entered[CLUSTERS_MAX];
	uint64_t at = 0;
	memset(left, 0, sizeof(left));
	memset(entered, 0, sizeof(entered));
	for (uint64_t i = 0; i < v->clusters; i++)
		old_of[i] = i;
	for (size_t i = 0; i < p->count; i++) {
		const struct plan_move *move = &p->moves[i];
		CHECK(move->length && move->new_lcn >= at && move->new_lcn != move->old_lcn);
		at = move->new_lcn + move->length;
		CHECK(at <= v->clusters && move->old_lcn + move->length <= v->clusters);
		for (uint64_t k = 0; k < move->length; k++) {
			old_of[move->new_lcn + k] = move->old_lcn + k;
			entered[move->new_lcn + k] = 1;
			CHECK(!left[move->old_lcn + k]++);
		}
	}
	CHECK(!memcmp(left, entered, sizeof(left)));
}

static bool in_runs(const struct run_list *list, uint64_t lcn)
{
	for (size_t i = 0; i < list->count; i++)
		if (lcn >= list->runs[i].lcn && lcn < list->runs[i].lcn + list->runs[i].length)
			return true;
	return false;
}

static void check_borders(const struct volume *v, const struct plan_permutation *p)
{
	for (size_t i = 1; i < p->entered.count; i++)
		CHECK(p->entered.runs[i].lcn > p->entered.runs[i - 1].lcn);
	for (size_t i = 1; i < p->left.count; i++)
		CHECK(p->left.runs[i].lcn > p->left.runs[i - 1].lcn);
	for (uint64_t i = 0; i < v->clusters; i++) {
		CHECK_IS(in_runs(&p->entered, i), v->owner[i] == FREE && owner_after[i] >= 0);
		CHECK_IS(in_runs(&p->left, i), v->owner[i] >= 0 && owner_after[i] == FREE);
	}
}

/* Cluster by cluster, every object finds at its new place what it had at its old one. */
static void check_contents(const struct volume *v, const struct plan *plan)
{
	for (size_t i = 0; i < v->count; i++) {
		const struct run *from = v->runs.runs + v->objects[i].first_run;
		uint32_t count;
		const struct run *to = pieces_of(v, plan, i, &count);
		uint64_t from_done = 0, to_done = 0;
		for (uint64_t c = 0; c < v->objects[i].length; c++) {
			CHECK_IS(old_of[to->lcn + to_done], from->lcn + from_done);
			if (++from_done == from->length) {
				from++;
				from_done = 0;
			}
			if (++to_done == to->length) {
				to++;
				to_done = 0;
			}
		}
	}
	for (uint64_t i = 0; i < v->clusters; i++)
		CHECK(v->owner[i] != LOST || old_of[i] == i);
}

/* ---- all of it ---- */

static unsigned int perfect; /* volumes of which everything could be put into one piece */

/* The volume as it is after the plan. */
static void carry_out(const struct volume *v, const struct plan *plan, struct volume *after)
{
	after->clusters = v->clusters;
	after->count = v->count;
	after->runs.count = 0;
	memcpy(after->objects, v->objects, v->count * sizeof(*v->objects));
	memcpy(after->owner, owner_after, v->clusters * sizeof(*owner_after));
	for (size_t i = 0; i < v->count; i++) {
		uint32_t count;
		const struct run *pieces = pieces_of(v, plan, i, &count);
		after->objects[i].first_run = (uint32_t)after->runs.count;
		after->objects[i].run_count = count;
		for (uint32_t k = 0; k < count; k++)
			CHECK_IS(run_list_push(&after->runs, pieces[k].lcn, pieces[k].length), 0);
	}
	fill_input(after, v->input.pack);
}

static void check_plan(const struct volume *v, const struct plan *plan)
{
	struct plan_permutation permutation;
	lay_out(v, plan);
	check_free(v, plan);
	for (size_t i = 0; i < v->count; i++)
		check_object(v, plan, i);
	CHECK_IS(plan_permute(&v->input, plan, &permutation), 0);
	check_bijection(v, &permutation);
	check_borders(v, &permutation);
	check_contents(v, plan);
	plan_permutation_free(&permutation);
}

/* Another plan for the result moves something only if that leaves fewer pieces: nothing is moved to and fro. */
static void check_again(const struct volume *v, const struct plan *plan)
{
	struct plan again;
	bool moved = false;
	carry_out(v, plan, &next);
	CHECK_IS(plan_make(&next.input, &again), 0);
	check_plan(&next, &again);
	for (size_t i = 0; i < next.count; i++)
		moved |= moves(&again, i);
	CHECK(!moved || total_pieces(&next, &again) < total_pieces(&next, NULL));
	plan_free(&again);
}

/* If all is in one piece, as far as it may be moved, there is nothing left to do. */
static bool is_perfect(const struct volume *v, const struct plan *plan)
{
	for (size_t i = 0; i < v->count; i++)
		if (plan->targets[i].reason != PLAN_OK && plan->targets[i].reason != PLAN_STAYS_PINNED)
			return false;
	return true;
}

static void check_nothing_left(const struct volume *v, const struct plan *plan)
{
	struct plan again;
	if (!is_perfect(v, plan))
		return;
	perfect++;
	carry_out(v, plan, &next);
	CHECK_IS(plan_make(&next.input, &again), 0);
	for (size_t i = 0; i < next.count; i++)
		CHECK_IS(moves(&again, i), false);
	plan_free(&again);
}

static void check_random_volumes(void)
{
	for (unsigned int round = 0; round < ROUNDS; round++) {
		struct plan plan;
		make_volume(&now);
		check_context("random volume %u: %llu clusters, %zu objects%s", round, (unsigned long long)now.clusters,
		              now.count, now.input.pack ? ", packed" : "");
		CHECK_IS(plan_make(&now.input, &plan), 0);
		check_plan(&now, &plan);
		if (!now.input.pack) {
			CHECK(total_pieces(&now, &plan) <= total_pieces(&now, NULL));
			check_again(&now, &plan);
			check_nothing_left(&now, &plan);
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
	struct plan_input input = {
	        .clusters = 16, .objects = objects, .object_count = 2, .runs = runs, .free = &free_list};
	struct plan plan;
	CHECK_IS(plan_make(&input, &plan), -EINVAL);
	runs[2].lcn = 13;
	CHECK_IS(plan_make(&input, &plan), -EINVAL);
	runs[2].lcn = 6;
	CHECK_IS(plan_make(&input, &plan), 0);
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
	struct plan_input input = {.clusters = lcn + 8,
	                           .objects = list,
	                           .object_count = objects,
	                           .runs = runs,
	                           .free = &free_list,
	                           .pack = pack};
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
	check_scaling();
	check_random_volumes();
	run_list_free(&now.runs);
	run_list_free(&now.free);
	run_list_free(&next.runs);
	run_list_free(&next.free);
	return 0;
}

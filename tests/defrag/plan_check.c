/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/defrag/plan_check.h"

#include <string.h>

#include "tests/mapdb/check.h"

static struct volume next;
static int owner_after[CLUSTERS_MAX];
static uint64_t old_of[CLUSTERS_MAX]; /* by the permutation */

void volume_add_object(struct volume *v, struct plan_object object, const struct run *pieces, size_t count)
{
	object.first_run = (uint32_t)v->runs.count;
	object.length = 0;
	for (size_t i = 0; i < count; i++) {
		CHECK_IS(run_list_push_merged(&v->runs, object.first_run, pieces[i].lcn, pieces[i].length), 0);
		object.length += pieces[i].length;
		for (uint64_t k = 0; k < pieces[i].length; k++)
			v->owner[pieces[i].lcn + k] = (int)v->count;
	}
	object.run_count = (uint32_t)(v->runs.count - object.first_run);
	v->objects[v->count++] = object;
}

void volume_fill_input(struct volume *v, bool pack)
{
	v->free.count = 0;
	for (uint64_t i = 0; i < v->clusters; i++)
		if (v->owner[i] == FREE)
			CHECK_IS(run_list_push_merged(&v->free, 0, i, 1), 0);
	v->input = (struct plan_input){
	        .objects = v->objects,
	        .object_count = v->count,
	        .runs = v->runs.runs,
	        .free = &v->free,
	        .pack = pack,
	};
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
	CHECK_IS(target->reason == PLAN_OK, count == 1 || object->kind == PLAN_UNWANTED);
	if (object->kind == PLAN_ANCHORED)
		CHECK_IS(first->lcn, v->runs.runs[object->first_run].lcn);
	if (!moves(plan, i))
		return;
	CHECK(object->kind != PLAN_PINNED && object->kind != PLAN_UNWANTED);
	CHECK(object->kind == PLAN_ANCHORED || first->lcn <= object->max_start);
	CHECK(count == 1 || count <= object->max_pieces);
	CHECK(!object->never_more || count <= object->run_count);
	if (object->run_count == 1) {
		CHECK(object->kind != PLAN_LEFT);
		CHECK(plan->anew || is_in_the_way(v, plan, i));
	}
}

uint64_t volume_pieces(const struct volume *v, const struct plan *plan)
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
	volume_fill_input(after, v->input.pack);
	after->input.in_place = v->input.in_place;
}

void check_plan(const struct volume *v, const struct plan *plan)
{
	struct plan_permutation permutation;
	CHECK(!v->input.in_place || v->input.pack || !plan->anew);
	lay_out(v, plan);
	for (size_t i = 0; i < v->count; i++)
		check_object(v, plan, i);
	CHECK_IS(plan_permute(&v->input, plan, &permutation), 0);
	check_bijection(v, &permutation);
	check_borders(v, &permutation);
	check_contents(v, plan);
	plan_permutation_free(&permutation);
}

void check_plan_settles(const struct volume *v, const struct plan *plan)
{
	struct plan again;
	bool moved = false;
	carry_out(v, plan, &next);
	CHECK_IS(plan_make(&next.input, &again), 0);
	check_plan(&next, &again);
	for (size_t i = 0; i < next.count; i++)
		moved |= moves(&again, i);
	CHECK(!moved || volume_pieces(&next, &again) < volume_pieces(&next, NULL));
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

bool check_nothing_left(const struct volume *v, const struct plan *plan)
{
	struct plan again;
	if (!is_perfect(v, plan))
		return false;
	carry_out(v, plan, &next);
	CHECK_IS(plan_make(&next.input, &again), 0);
	for (size_t i = 0; i < next.count; i++)
		CHECK_IS(moves(&again, i), false);
	plan_free(&again);
	return true;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * plan: the permutation of clusters that carries a plan out.
 */
#include <errno.h>
#include <stdlib.h>

#include "defrag/plan.h"

struct move_list {
	struct plan_move *moves;
	size_t count, capacity;
};

static int add_move(struct move_list *list, uint64_t new_lcn, uint64_t old_lcn, uint64_t length)
{
	if (new_lcn == old_lcn)
		return 0;
	struct plan_move *last = list->count ? &list->moves[list->count - 1] : NULL;
	if (last && new_lcn == last->new_lcn + last->length && old_lcn == last->old_lcn + last->length) {
		last->length += length;
		return 0;
	}
	if (list->count == list->capacity) {
		size_t capacity = list->capacity + list->capacity / 2 + 64;
		struct plan_move *grown = reallocarray(list->moves, capacity, sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		list->moves = grown;
		list->capacity = capacity;
	}
	list->moves[list->count++] = (struct plan_move){.new_lcn = new_lcn, .old_lcn = old_lcn, .length = length};
	return 0;
}

/* Walks an object's pieces and its targets side by side. */
static int add_object_moves(struct move_list *list, const struct run *from, const struct run *to, uint64_t length)
{
	uint64_t from_done = 0, to_done = 0;
	while (length) {
		uint64_t here = from->length - from_done;
		if (to->length - to_done < here)
			here = to->length - to_done;
		int r = add_move(list, to->lcn + to_done, from->lcn + from_done, here);
		if (r < 0)
			return r;
		length -= here;
		from_done += here;
		to_done += here;
		if (from_done == from->length) {
			from++;
			from_done = 0;
		}
		if (to_done == to->length) {
			to++;
			to_done = 0;
		}
	}
	return 0;
}

/* out = a without b; both sorted and free of overlaps. */
static int subtract(const struct run_list *a, const struct run_list *b, struct run_list *out)
{
	size_t k = 0;
	int r = 0;
	for (size_t i = 0; i < a->count; i++) {
		uint64_t lcn = a->runs[i].lcn, end = lcn + a->runs[i].length;
		while (k < b->count && b->runs[k].lcn + b->runs[k].length <= lcn)
			k++;
		for (size_t m = k; r == 0 && lcn < end; m++) {
			uint64_t stop = m < b->count && b->runs[m].lcn < end ? b->runs[m].lcn : end;
			if (stop > lcn)
				r = run_list_push_merged(out, 0, lcn, stop - lcn);
			lcn = stop < end ? b->runs[m].lcn + b->runs[m].length : end;
		}
	}
	return r;
}

static int sides_of(const struct move_list *list, struct run_list *news, struct run_list *olds)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < list->count; i++) {
		r = run_list_push(news, list->moves[i].new_lcn, list->moves[i].length);
		if (r == 0)
			r = run_list_push(olds, list->moves[i].old_lcn, list->moves[i].length);
	}
	if (r == 0)
		r = run_list_sort(news);
	return r < 0 ? r : run_list_sort(olds);
}

static uint64_t total_length(const struct run_list *list)
{
	uint64_t total = 0;
	for (size_t i = 0; i < list->count; i++)
		total += list->runs[i].length;
	return total;
}

/* The free clusters that objects move into take the places that objects leave. */
static int add_exchange(struct move_list *list, struct run_list *entered, struct run_list *left)
{
	struct run_list news = {0}, olds = {0};
	int r = sides_of(list, &news, &olds);
	if (r == 0)
		r = subtract(&olds, &news, left);
	if (r == 0)
		r = subtract(&news, &olds, entered);
	uint64_t length = total_length(left);
	if (r == 0 && total_length(entered) != length)
		r = -EINVAL;
	if (r == 0 && length)
		r = add_object_moves(list, entered->runs, left->runs, length);
	run_list_free(&news);
	run_list_free(&olds);
	return r;
}

static int by_new_lcn(const void *a, const void *b)
{
	uint64_t x = ((const struct plan_move *)a)->new_lcn, y = ((const struct plan_move *)b)->new_lcn;
	return x < y ? -1 : x > y;
}

void plan_permutation_free(struct plan_permutation *permutation)
{
	free(permutation->moves);
	run_list_free(&permutation->entered);
	run_list_free(&permutation->left);
	*permutation = (struct plan_permutation){0};
}

int plan_permute(const struct plan_input *input, const struct plan *plan, struct plan_permutation *permutation)
{
	struct move_list list = {0};
	int r = 0;
	*permutation = (struct plan_permutation){0};
	for (size_t i = 0; r == 0 && i < input->object_count; i++) {
		const struct plan_target *target = &plan->targets[i];
		if (target->first_piece != PLAN_STAYS)
			r = add_object_moves(&list, input->runs + input->objects[i].first_run,
			                     plan->pieces.runs + target->first_piece, input->objects[i].length);
	}
	if (r == 0)
		r = add_exchange(&list, &permutation->entered, &permutation->left);
	permutation->moves = list.moves;
	permutation->count = list.count;
	if (r < 0)
		plan_permutation_free(permutation);
	else if (list.count)
		qsort(list.moves, list.count, sizeof(*list.moves), by_new_lcn);
	return r;
}

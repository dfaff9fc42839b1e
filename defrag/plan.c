/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * plan: where everything should be. How clusters change places for that is in plan_permutation.c.
 */
#include "defrag/plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "defrag/gaps.h"
#include "mapdb/cleanup.h"

#define ROUNDS_MAX      16u /* attempts in which objects that cannot be placed are pinned and the rest placed again */
#define RESERVE_DIVISOR 8u  /* --pack keeps up to this part of the free space behind the anchored object */

enum mode {
	MODE_FRAGMENTED, /* only fragmented objects move; fail if one fits nowhere */
	MODE_DIVIDE,     /* the same, dividing what fits nowhere, if that makes fewer pieces of it */
	MODE_CROWDED,    /* the same, however many pieces: where it is full, one gives way to many */
	MODE_ANEW,       /* everything moves */
	MODE_PACK,       /* everything moves, in order */
};

enum fate { FATE_STAYS, FATE_MOVES };

/* One attempt at a layout. */
struct attempt {
	const struct plan_input *input;
	struct plan *plan;
	enum mode mode;
	uint8_t *fate;   /* of each object */
	uint8_t *reason; /* of each object: enum plan_reason; what earlier rounds pinned keeps its reason */
	struct gaps gaps;
	size_t anchored;      /* index, or SIZE_MAX */
	uint64_t anchor_rest; /* clusters of the anchored object that do not fit behind its anchor */
	size_t failed;        /* objects that could not be placed in this round */
};

void plan_free(struct plan *plan)
{
	free(plan->targets);
	run_list_free(&plan->pieces);
	*plan = (struct plan){0};
}

static bool is_movable(const struct plan_object *object)
{
	return object->kind == PLAN_MOVABLE || object->kind == PLAN_ANCHORED ||
	       (object->kind == PLAN_LEFT && object->run_count > 1);
}

static void choose_fates(struct attempt *a)
{
	bool everything = a->mode == MODE_ANEW || a->mode == MODE_PACK;
	for (size_t i = 0; i < a->input->object_count; i++) {
		const struct plan_object *object = &a->input->objects[i];
		bool moves = is_movable(object) && !a->reason[i] && (everything || object->run_count > 1);
		a->fate[i] = moves ? FATE_MOVES : FATE_STAYS;
	}
}

/* ---- space ---- */

/* All space that nothing which stays occupies, sorted and merged. */
static int collect_space(const struct attempt *a, struct run_list *space)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < a->input->free->count; i++)
		r = run_list_push(space, a->input->free->runs[i].lcn, a->input->free->runs[i].length);
	for (size_t i = 0; i < a->input->object_count; i++) {
		const struct plan_object *object = &a->input->objects[i];
		if (a->fate[i] == FATE_STAYS)
			continue;
		for (uint32_t k = 0; r == 0 && k < object->run_count; k++) {
			const struct run *run = &a->input->runs[object->first_run + k];
			r = run_list_push(space, run->lcn, run->length);
		}
	}
	if (r == 0)
		r = run_list_sort(space);
	return r == 0 && run_list_merge(space) != RUN_HOLE ? -EINVAL : r;
}

/* Cuts [lcn, lcn + length) out of space as far as it is there in one piece from lcn on. Returns how much that was. */
static uint64_t cut_space(struct run_list *space, uint64_t lcn, uint64_t length, int *error)
{
	size_t low = 0, high = space->count;
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		if (space->runs[middle].lcn <= lcn)
			low = middle;
		else
			high = middle;
	}
	if (!space->count || space->runs[low].lcn > lcn || lcn >= space->runs[low].lcn + space->runs[low].length)
		return 0;
	struct run whole = space->runs[low];
	uint64_t before = lcn - whole.lcn, taken = whole.length - before < length ? whole.length - before : length;
	struct run after = {.lcn = lcn + taken, .length = whole.length - before - taken};
	if (before && after.length) {
		*error = run_list_push(space, 0, 0);
		if (*error)
			return 0;
		memmove(space->runs + low + 2, space->runs + low + 1, (space->count - low - 2) * sizeof(struct run));
		space->runs[low].length = before;
		space->runs[low + 1] = after;
	} else if (before) {
		space->runs[low].length = before;
	} else if (after.length) {
		space->runs[low] = after;
	} else {
		memmove(space->runs + low, space->runs + low + 1, (space->count - low - 1) * sizeof(struct run));
		space->count--;
	}
	return taken;
}

/* Contiguous objects that lie where the anchored one must grow make way. */
static void evict_for_anchor(struct attempt *a)
{
	const struct plan_object *anchored = &a->input->objects[a->anchored];
	uint64_t from = a->input->runs[anchored->first_run].lcn, to = from + anchored->length;
	for (size_t i = 0; i < a->input->object_count; i++) {
		const struct plan_object *object = &a->input->objects[i];
		if (a->fate[i] == FATE_MOVES || object->kind != PLAN_MOVABLE || a->reason[i])
			continue;
		for (uint32_t k = 0; k < object->run_count; k++) {
			const struct run *run = &a->input->runs[object->first_run + k];
			if (run->lcn < to && from < run->lcn + run->length)
				a->fate[i] = FATE_MOVES;
		}
	}
}

/* ---- placing ---- */

static int add_piece(struct attempt *a, size_t object, uint64_t lcn, uint64_t length)
{
	struct plan_target *target = &a->plan->targets[object];
	if (target->first_piece == PLAN_STAYS) {
		target->first_piece = (uint32_t)a->plan->pieces.count;
		target->piece_count = 0;
	}
	int r = run_list_push_merged(&a->plan->pieces, target->first_piece, lcn, length);
	target->piece_count = (uint32_t)(a->plan->pieces.count - target->first_piece);
	return r;
}

/* A power of two: what becomes free in a pass would shift everything in the next one otherwise. */
static uint64_t reserve_of(uint64_t free_clusters)
{
	return UINT64_C(1) << (63 - __builtin_clzll(free_clusters / RESERVE_DIVISOR));
}

static int place_anchored(struct attempt *a, struct run_list *space)
{
	const struct plan_object *object = &a->input->objects[a->anchored];
	uint64_t lcn = a->input->runs[object->first_run].lcn, free_clusters = 0;
	int r = 0;
	uint64_t taken = cut_space(space, lcn, object->length, &r);
	if (r == 0 && taken)
		r = add_piece(a, a->anchored, lcn, taken);
	a->anchor_rest = object->length - taken;
	for (size_t i = 0; i < a->input->free->count; i++)
		free_clusters += a->input->free->runs[i].length;
	if (r == 0 && a->mode == MODE_PACK && !a->anchor_rest && free_clusters / RESERVE_DIVISOR)
		cut_space(space, lcn + taken, reserve_of(free_clusters), &r);
	return r;
}

/* It stays as it is: what was taken is lost to this round, and the next one begins afresh without it. */
static void give_up(struct attempt *a, size_t object, enum plan_reason reason)
{
	a->plan->targets[object].first_piece = PLAN_STAYS;
	a->reason[object] = (uint8_t)reason;
	a->failed++;
}

static uint32_t pieces_placed(const struct attempt *a, size_t object)
{
	const struct plan_target *target = &a->plan->targets[object];
	return target->first_piece == PLAN_STAYS ? 0 : target->piece_count;
}

/* Whether it is worth to move only fragmented objects is decided for each of them: in as many pieces as before it might
 * as well stay, and moving it would be done again in every pass. Else only their sum counts, for most of them. */
static uint32_t pieces_worthwhile(const struct attempt *a, size_t index)
{
	const struct plan_object *object = &a->input->objects[index];
	if (a->mode == MODE_FRAGMENTED || a->mode == MODE_DIVIDE)
		return object->run_count - 1;
	return object->never_more ? object->run_count : UINT32_MAX;
}

/* Divides length clusters into the fewest pieces that the gaps allow: the longest gaps, until the rest fits into one.
 */
static int place_divided(struct attempt *a, size_t object, uint64_t length)
{
	uint32_t most = a->input->objects[object].max_pieces, worthwhile = pieces_worthwhile(a, object);
	uint32_t pieces = pieces_placed(a, object), limit = most < worthwhile ? most : worthwhile;
	uint64_t total = 0;
	struct gaps *gaps = &a->gaps;
	size_t first = a->plan->pieces.count;
	while (total < length && pieces < limit) {
		uint64_t rest = length - total;
		size_t gap = gaps_first_fit(gaps, rest);
		if (gap == GAP_NONE)
			gap = gaps_find_longest(gaps);
		if (gap == GAP_NONE)
			break;
		uint64_t take = gaps->runs.runs[gap].length < rest ? gaps->runs.runs[gap].length : rest;
		int r = add_piece(a, object, gaps_take(gaps, gap, take), take);
		if (r < 0)
			return r;
		pieces++;
		total += take;
	}
	if (total == length &&
	    a->plan->pieces.runs[a->plan->targets[object].first_piece].lcn <= a->input->objects[object].max_start) {
		a->plan->targets[object].reason = PLAN_STAYS_NO_GAP;
		return 0;
	}
	a->plan->pieces.count = first;
	give_up(a, object, pieces == most ? PLAN_STAYS_RECORD_FULL : PLAN_STAYS_NO_GAP);
	return 0;
}

static int place(struct attempt *a, size_t index)
{
	const struct plan_object *object = &a->input->objects[index];
	uint64_t length = index == a->anchored ? a->anchor_rest : object->length;
	if (!length)
		return 0;
	/* What may not lie too high looks from below; so does a layout from scratch, which is to be dense. */
	bool tight = a->mode < MODE_ANEW;
	size_t gap = tight && object->max_start == UINT64_MAX ? gaps_best_fit(&a->gaps, length)
	                                                      : gaps_first_fit(&a->gaps, length);
	if (index == a->anchored) {
		uint32_t pieces = pieces_placed(a, index) + 1;
		a->plan->targets[index].reason = PLAN_STAYS_OBSTACLE;
		if (pieces > object->max_pieces || pieces > pieces_worthwhile(a, index)) {
			give_up(a, index, pieces > object->max_pieces ? PLAN_STAYS_RECORD_FULL : PLAN_STAYS_OBSTACLE);
			return 0;
		}
	} else if (gap != GAP_NONE && a->gaps.runs.runs[gap].lcn > object->max_start) {
		give_up(a, index, PLAN_STAYS_RECORD_FULL);
		return 0;
	}
	if (gap != GAP_NONE)
		return add_piece(a, index, gaps_take(&a->gaps, gap, length), length);
	if (a->mode != MODE_FRAGMENTED)
		return place_divided(a, index, length);
	give_up(a, index, PLAN_STAYS_NO_GAP);
	return 0;
}

struct order {
	const struct plan_input *input;
	bool by_length;
	const uint32_t *wanted; /* see plan_input; NULL: none */
};

static int compare_order(const void *a, const void *b, void *context)
{
	const struct order *order = context;
	uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
	const struct plan_object *x = &order->input->objects[i], *y = &order->input->objects[k];
	if (x->max_start != y->max_start)
		return x->max_start < y->max_start ? -1 : 1;
	if (x->rank != y->rank)
		return x->rank < y->rank ? -1 : 1;
	if (order->by_length && x->length != y->length)
		return x->length > y->length ? -1 : 1;
	if (order->wanted && order->wanted[i] != order->wanted[k])
		return order->wanted[i] < order->wanted[k] ? -1 : 1;
	return i < k ? -1 : i > k;
}

static int place_all(struct attempt *a)
{
	size_t count = 0;
	bool pack = a->mode == MODE_PACK;
	struct order order = {.input = a->input, .by_length = !pack, .wanted = pack ? a->input->order : NULL};
	cleanup_free uint32_t *queue = malloc((a->input->object_count + 1) * sizeof(*queue));
	if (!queue)
		return -ENOMEM;
	for (size_t i = 0; i < a->input->object_count; i++)
		if (a->fate[i] == FATE_MOVES && i != a->anchored)
			queue[count++] = (uint32_t)i;
	qsort_r(queue, count, sizeof(*queue), compare_order, &order);
	int r = a->anchored != SIZE_MAX ? place(a, a->anchored) : 0;
	for (size_t i = 0; r == 0 && i < count; i++)
		r = place(a, queue[i]);
	return r;
}

static void reset_plan(struct attempt *a)
{
	for (size_t i = 0; i < a->input->object_count; i++)
		a->plan->targets[i] = (struct plan_target){.first_piece = PLAN_STAYS};
	a->plan->pieces.count = 0;
	a->failed = 0;
	a->anchor_rest = 0;
}

static int run_round(struct attempt *a)
{
	struct run_list space = {0};
	reset_plan(a);
	choose_fates(a);
	bool anchor_moves = a->anchored != SIZE_MAX && a->fate[a->anchored] == FATE_MOVES;
	if (anchor_moves)
		evict_for_anchor(a);
	int r = collect_space(a, &space);
	if (r == 0 && anchor_moves)
		r = place_anchored(a, &space);
	gaps_free(&a->gaps);
	if (r == 0)
		r = gaps_build(&a->gaps, &space);
	run_list_free(&space);
	return r < 0 ? r : place_all(a);
}

static size_t find_anchored(const struct plan_input *input)
{
	for (size_t i = 0; i < input->object_count; i++)
		if (input->objects[i].kind == PLAN_ANCHORED)
			return i;
	return SIZE_MAX;
}

static void give_reasons(struct attempt *a)
{
	for (size_t i = 0; i < a->input->object_count; i++) {
		const struct plan_object *object = &a->input->objects[i];
		struct plan_target *target = &a->plan->targets[i];
		bool stays = target->first_piece == PLAN_STAYS;
		if (stays && object->run_count > 1 && object->kind != PLAN_UNWANTED)
			target->reason = a->reason[i] ? a->reason[i] : PLAN_STAYS_PINNED;
		else if (stays || target->piece_count == 1)
			target->reason = PLAN_OK;
	}
}

static bool is_where_it_was(const struct attempt *a, size_t index)
{
	const struct plan_object *object = &a->input->objects[index];
	const struct plan_target *target = &a->plan->targets[index];
	if (target->first_piece == PLAN_STAYS || target->piece_count != object->run_count)
		return false;
	const struct run *was = a->input->runs + object->first_run, *is = a->plan->pieces.runs + target->first_piece;
	for (uint32_t i = 0; i < object->run_count; i++)
		if (was[i].lcn != is[i].lcn || was[i].length != is[i].length)
			return false;
	return true;
}

/* What was given its own place again does not move. */
static void leave_unmoved(struct attempt *a)
{
	for (size_t i = 0; i < a->input->object_count; i++)
		if (is_where_it_was(a, i))
			a->plan->targets[i].first_piece = PLAN_STAYS;
}

/* Pins what could not be placed and tries again, until all that moves has a place. In MODE_FRAGMENTED *complete says
 * whether everything fragmented found a gap; without that the plan is of no use. What is in the anchored object's way
 * and finds none stays there. */
static int attempt_mode(const struct plan_input *input, enum mode mode, struct plan *plan, bool *complete)
{
	struct attempt a = {.input = input, .plan = plan, .mode = mode, .anchored = find_anchored(input)};
	size_t n = input->object_count;
	int r = 0;
	*plan = (struct plan){.targets = calloc(n + 1, sizeof(*plan->targets))};
	a.fate = calloc(n + 1, 1);
	a.reason = calloc(n + 1, 1);
	*complete = true;
	if (!plan->targets || !a.fate || !a.reason)
		r = -ENOMEM;
	for (unsigned int round = 0; r == 0; round++) {
		r = run_round(&a);
		/* Others have made way for the anchored object in vain. */
		if (r == 0 && !a.failed && mode < MODE_ANEW && a.anchored != SIZE_MAX &&
		    is_where_it_was(&a, a.anchored))
			give_up(&a, a.anchored, PLAN_STAYS_OBSTACLE);
		for (size_t i = 0; mode == MODE_FRAGMENTED && i < n; i++)
			if (a.reason[i] == PLAN_STAYS_NO_GAP && input->objects[i].run_count > 1)
				*complete = false;
		if (r < 0 || !a.failed || !*complete)
			break;
		for (size_t i = 0; round >= ROUNDS_MAX && i < n; i++)
			if (a.fate[i] == FATE_MOVES)
				a.reason[i] = PLAN_STAYS_NO_GAP;
	}
	if (r == 0) {
		give_reasons(&a);
		leave_unmoved(&a);
	}
	plan->anew = mode == MODE_ANEW || mode == MODE_PACK;
	gaps_free(&a.gaps);
	free(a.fate);
	free(a.reason);
	if (r < 0)
		plan_free(plan);
	return r;
}

static uint64_t pieces_after(const struct plan_input *input, const struct plan *plan)
{
	uint64_t pieces = 0;
	for (size_t i = 0; i < input->object_count; i++)
		pieces += plan->targets[i].first_piece == PLAN_STAYS ? input->objects[i].run_count
		                                                     : plan->targets[i].piece_count;
	return pieces;
}

/* Another mode's plan takes the place of this one if it leaves fewer pieces. */
static int improve(const struct plan_input *input, enum mode mode, struct plan *plan)
{
	bool complete;
	struct plan other;
	int r = attempt_mode(input, mode, &other, &complete);
	if (r < 0) {
		plan_free(plan);
		return r;
	}
	if (pieces_after(input, &other) < pieces_after(input, plan)) {
		struct plan worse = *plan;
		*plan = other;
		other = worse;
	}
	plan_free(&other);
	return 0;
}

int plan_make(const struct plan_input *input, struct plan *plan)
{
	bool complete;
	int r = attempt_mode(input, input->pack ? MODE_PACK : MODE_FRAGMENTED, plan, &complete);
	if (r < 0 || complete)
		return r;
	plan_free(plan);
	r = attempt_mode(input, MODE_DIVIDE, plan, &complete);
	if (r == 0)
		r = improve(input, MODE_CROWDED, plan);
	if (r == 0 && !input->in_place)
		r = improve(input, MODE_ANEW, plan);
	return r;
}

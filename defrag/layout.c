/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "defrag/choose.h"
#include "defrag/order.h"
#include "mapdb/cleanup.h"

#define PIECE_BYTES_MAX                                                                                                \
	11u /* that one more piece adds to a run list: header, length and LCN difference of 5 bytes each */

void layout_free(struct layout *layout)
{
	free(layout->objects);
	free(layout->first_attr);
	run_list_free(&layout->runs);
	plan_free(&layout->plan);
	plan_permutation_free(&layout->permutation);
	*layout = (struct layout){0};
}

/* The order in which a volume is packed: what is read first lies first. Attribute lists lie next to the free space, for
 * most of those that have clusters go when their files are in one piece, and would leave gaps elsewhere. */
static uint8_t rank_of(const struct scan *s, const struct attr *attr)
{
	if (attr->type == le32_to_cpu(AT_ATTRIBUTE_LIST))
		return 4;
	if (attr->base < FILE_first_user)
		return 0;
	if (s->kind[attr->base] & RECORD_BOOT_FILE)
		return 1;
	return attr->type == le32_to_cpu(AT_INDEX_ALLOCATION) || attr->type == le32_to_cpu(AT_BITMAP) ? 2 : 3;
}

/* What boot code reads, which may manage with few pieces only: the root directory, $MFT, loaders and their data. */
static bool is_read_to_boot(const struct scan *s, const struct attr *attr)
{
	return attr->base < FILE_first_user || s->kind[attr->base] & (RECORD_BOOT_FILE | RECORD_BOOT_DATA);
}

/* What must stay, and why: the boot record and what is found through it ($Boot, $MFTMirr, the first cluster of $MFT),
 * bad clusters, what is left of shadow copies (the boot record leads to their catalog). The files of boot loaders,
 * which may know them by their place, are left while they are in one piece. $LogFile may move: only a clean one gets
 * this far, and then it holds no place of anything. */
enum plan_kind layout_kind(const struct scan *s, const struct attr *attr)
{
	bool data = attr->type == le32_to_cpu(AT_DATA);
	switch (attr->base) {
	case FILE_MFT:
		return data && !attr->name_hash ? PLAN_ANCHORED : PLAN_MOVABLE;
	case FILE_MFTMirr:
	case FILE_Boot:
	case FILE_BadClus:
		return data ? PLAN_PINNED : PLAN_MOVABLE;
	default:
		if (s->kind[attr->base] & RECORD_SHADOWS)
			return PLAN_PINNED;
		return s->kind[attr->base] & RECORD_BOOT_FILE ? PLAN_LEFT : PLAN_MOVABLE;
	}
}

/* Bytes of an extent's run list if its clusters lay in one piece from lcn on. */
static size_t contiguous_size(const struct scan *s, const struct attr *attr, uint64_t lcn, struct run_list *scratch)
{
	scratch->count = 0;
	for (uint32_t i = 0; i < attr->run_count; i++) {
		const struct run *run = &s->runs.runs[attr->first_run + i];
		uint64_t where = run->lcn == RUN_HOLE ? RUN_HOLE : lcn;
		if (run_list_push_merged(scratch, 0, where, run->length) < 0)
			return SIZE_MAX;
		if (run->lcn != RUN_HOLE)
			lcn += run->length;
	}
	return mapping_pairs_size(scratch->runs, scratch->count);
}

/* Looks at one extent, whose first cluster is the object's cluster-th: how far up may the object begin, and in how many
 * pieces may it be, for the run list to fit into its record? */
static void limit_by_room(const struct scan *s, const struct attr *attr, uint64_t cluster, struct run_list *scratch,
                          struct plan_object *object)
{
	uint64_t clusters = s->geometry.clusters;
	size_t largest = contiguous_size(s, attr, clusters - 1, scratch);
	if (largest <= attr->room) {
		size_t more = (attr->room - largest) / PIECE_BYTES_MAX;
		if (more + 1 < object->max_pieces)
			object->max_pieces = (uint16_t)(more + 1);
		return;
	}
	object->max_pieces = 1;
	for (unsigned int bits = 7; bits < 63; bits += 8) {
		uint64_t lcn = (UINT64_C(1) << bits) - 1;
		if (contiguous_size(s, attr, lcn, scratch) <= attr->room)
			continue;
		/* One byte less of LCN was the most that fits. */
		uint64_t limit = bits > 7 ? (UINT64_C(1) << (bits - 8)) - 1 : 0;
		limit = limit > cluster ? limit - cluster : 0;
		if (limit < object->max_start)
			object->max_start = limit;
		return;
	}
}

static int add_object(const struct scan *s, struct layout *l, size_t first, size_t end, struct run_list *scratch)
{
	const struct attr *head = &s->attrs[first];
	struct plan_object *object = &l->objects[l->count];
	*object = (struct plan_object){
	        .first_run = (uint32_t)l->runs.count,
	        .max_start = UINT64_MAX,
	        .max_pieces = UINT16_MAX,
	        .kind = (uint8_t)layout_kind(s, head),
	        .rank = rank_of(s, head),
	        .never_more = is_read_to_boot(s, head),
	};
	for (size_t i = first; i < end; i++) {
		const struct attr *attr = &s->attrs[i];
		for (uint32_t k = 0; k < attr->run_count; k++) {
			const struct run *run = &s->runs.runs[attr->first_run + k];
			if (run->lcn == RUN_HOLE)
				continue;
			int r = run_list_push_merged(&l->runs, object->first_run, run->lcn, run->length);
			if (r < 0)
				return r;
		}
	}
	object->run_count = (uint32_t)(l->runs.count - object->first_run);
	if (l->runs.count > UINT32_MAX)
		return -EFBIG;
	if (!object->run_count)
		return 0;
	for (size_t i = first; i < end; i++) {
		const struct attr *attr = &s->attrs[i];
		if (object->kind != PLAN_PINNED)
			limit_by_room(s, attr, object->length, scratch, object);
		for (uint32_t k = 0; k < attr->run_count; k++)
			if (s->runs.runs[attr->first_run + k].lcn != RUN_HOLE)
				object->length += s->runs.runs[attr->first_run + k].length;
	}
	l->first_attr[l->count++] = (uint32_t)first;
	return 0;
}

static int collect_objects(const struct scan *s, struct layout *l)
{
	struct run_list scratch = {0};
	size_t streams = 0;
	int r = 0;
	for (size_t i = 0; i < s->attr_count; i = scan_stream_end(s, i))
		streams++;
	l->objects = malloc((streams + 1) * sizeof(*l->objects));
	l->first_attr = malloc((streams + 1) * sizeof(*l->first_attr));
	if (!l->objects || !l->first_attr || s->attr_count > UINT32_MAX)
		r = -ENOMEM;
	for (size_t i = 0, end; r == 0 && i < s->attr_count; i = end) {
		end = scan_stream_end(s, i);
		r = add_object(s, l, i, end, &scratch);
	}
	run_list_free(&scratch);
	return r;
}

int layout_make(const struct scan *s, const struct pass_options *options, uint8_t *found, struct layout *l)
{
	cleanup_free uint32_t *order = NULL;
	*l = (struct layout){0};
	int r = collect_objects(s, l);
	if (r == 0 && options->pack && options->order != ORDER_MFT)
		r = order_objects(s, l, options->order, options->descending, &order);
	if (r == 0 && options->selection)
		r = choose_objects(s, options->selection, l, found);
	l->input = (struct plan_input){
	        .objects = l->objects,
	        .object_count = l->count,
	        .runs = l->runs.runs,
	        .free = &s->free,
	        .pack = options->pack,
	        .order = order,
	        .in_place = options->selection != NULL,
	};
	if (r == 0)
		r = plan_make(&l->input, &l->plan);
	l->input.order = NULL;
	if (r == 0)
		r = plan_permute(&l->input, &l->plan, &l->permutation);
	if (r < 0)
		layout_free(l);
	return r;
}

int layout_new_runs(const struct scan *s, const struct layout *l, size_t object, const struct attr *attr,
                    uint64_t *cluster, struct run_list *runs)
{
	const struct plan_target *target = &l->plan.targets[object];
	const struct run *piece = l->plan.pieces.runs + target->first_piece;
	uint64_t skip = *cluster;
	size_t from = runs->count;
	while (skip >= piece->length && piece < l->plan.pieces.runs + target->first_piece + target->piece_count - 1) {
		skip -= piece->length;
		piece++;
	}
	for (uint32_t i = 0; i < attr->run_count; i++) {
		const struct run *run = &s->runs.runs[attr->first_run + i];
		int r = 0;
		if (run->lcn == RUN_HOLE)
			r = run_list_push_merged(runs, from, RUN_HOLE, run->length);
		for (uint64_t done = 0; run->lcn != RUN_HOLE && r == 0 && done < run->length;) {
			if (skip == piece->length) {
				piece++;
				skip = 0;
			}
			uint64_t here = piece->length - skip;
			if (here > run->length - done)
				here = run->length - done;
			r = run_list_push_merged(runs, from, piece->lcn + skip, here);
			done += here;
			skip += here;
			*cluster += here;
		}
		if (r < 0)
			return r;
	}
	return 0;
}

const char *plan_reason_text(const struct scan *s, enum plan_reason reason, const struct attr *attr)
{
	switch (reason) {
	case PLAN_STAYS_RECORD_FULL:
		return "its MFT record has no room for the run list of another place";
	case PLAN_STAYS_NO_GAP:
		return "no gap between what must stay is long enough";
	case PLAN_STAYS_OBSTACLE:
		return "what must stay lies behind the first part of $MFT";
	case PLAN_STAYS_PINNED:
		if (attr->base == FILE_BadClus)
			return "bad clusters";
		return s->kind[attr->base] & RECORD_SHADOWS ? "shadow copies are found by their place"
		                                            : "found by its place when the guest starts";
	default:
		return "";
	}
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/fragmented.h"

#include <errno.h>
#include <stdlib.h>

#include "mapdb/cleanup.h"

struct rank {
	uint32_t pieces, object;
};

/* Most pieces first, then by place in the MFT. */
static int compare_ranks(const void *a, const void *b)
{
	const struct rank *x = a, *y = b;
	if (x->pieces != y->pieces)
		return x->pieces > y->pieces ? -1 : 1;
	return x->object < y->object ? -1 : x->object > y->object;
}

static uint64_t pieces_after(const struct layout *l, size_t object)
{
	return layout_moves(l, object) ? l->plan.targets[object].piece_count : l->objects[object].run_count;
}

/* In pieces, and the pass is for it. */
static bool is_meant(const struct plan_object *object)
{
	return object->run_count > 1 && object->kind != PLAN_UNWANTED;
}

static struct rank *rank_objects(const struct layout *l, size_t *count)
{
	struct rank *ranks = malloc((l->count + 1) * sizeof(*ranks));
	*count = 0;
	for (size_t i = 0; ranks && i < l->count; i++)
		if (is_meant(&l->objects[i]))
			ranks[(*count)++] = (struct rank){.pieces = l->objects[i].run_count, .object = (uint32_t)i};
	if (ranks)
		qsort(ranks, *count, sizeof(*ranks), compare_ranks);
	return ranks;
}

int fragmented_list(const struct scan *s, const struct layout *l, uint64_t max, fragmented_found found, void *context)
{
	size_t count;
	cleanup_free struct rank *ranks = rank_objects(l, &count);
	cleanup_free struct stream_name *name = malloc(sizeof(*name));
	if (!ranks || !name)
		return -ENOMEM;
	int r = 0;
	for (size_t i = 0; r == 0 && i < count && i < max; i++) {
		size_t object = ranks[i].object;
		const struct attr *head = &s->attrs[l->first_attr[object]];
		uint64_t after = pieces_after(l, object);
		const char *reason = plan_reason_text(s, (enum plan_reason)l->plan.targets[object].reason, head);
		r = stream_name_read(s, head, name);
		if (r == 0)
			r = found(context, head, name, &l->objects[object], after, after > 1 ? reason : "");
	}
	return r;
}

void fragmented_count(const struct scan *s, const struct layout *l, struct volume_report *report)
{
	report->files_mended = report->attributes_mended = 0;
	report->selected_files = report->selected_attributes = report->selected_excess = 0;
	for (size_t i = 0, end; i < l->count; i = end) {
		uint32_t base = s->attrs[l->first_attr[i]].base;
		bool was = false, is = false, meant = false;
		for (end = i; end < l->count && s->attrs[l->first_attr[end]].base == base; end++) {
			bool fragmented = l->objects[end].run_count > 1, stays = pieces_after(l, end) > 1;
			report->attributes_mended += fragmented && !stays;
			if (is_meant(&l->objects[end])) {
				meant = true;
				report->selected_attributes++;
				report->selected_excess += l->objects[end].run_count - 1;
			}
			was |= fragmented;
			is |= stays;
		}
		report->files_mended += was && !is;
		report->selected_files += meant;
	}
}

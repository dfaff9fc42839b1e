/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/figures.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "defrag/stream_name.h"
#include "mapdb/cleanup.h"

struct counts {
	uint64_t attributes, fragmented, fragments, excess, files, clusters;
};

static uint64_t count_clusters(const struct scan *s, size_t first, size_t end)
{
	uint64_t clusters = 0;
	for (size_t i = first; i < end; i++)
		for (uint32_t k = 0; k < s->attrs[i].run_count; k++)
			if (s->runs.runs[s->attrs[i].first_run + k].lcn != RUN_HOLE)
				clusters += s->runs.runs[s->attrs[i].first_run + k].length;
	return clusters;
}

static struct counts count_attributes(const struct scan *s)
{
	struct counts c = {0};
	uint64_t last = UINT64_MAX; /* fragmented file */
	for (size_t i = 0, end; i < s->attr_count; i = end) {
		end = scan_stream_end(s, i);
		uint64_t pieces = scan_stream_pieces(s, i, end);
		c.clusters += count_clusters(s, i, end);
		c.attributes++;
		c.fragments += pieces;
		if (pieces < 2)
			continue;
		c.fragmented++;
		c.excess += pieces - 1;
		c.files += s->attrs[i].base != last;
		last = s->attrs[i].base;
	}
	return c;
}

static uint64_t longest_run(const struct run_list *list)
{
	uint64_t longest = 0;
	for (size_t i = 0; i < list->count; i++)
		if (list->runs[i].length > longest)
			longest = list->runs[i].length;
	return longest;
}

void figures_before(const struct scan *s, struct volume_report *report)
{
	struct counts c = count_attributes(s);
	report->clusters_free = s->clusters_free;
	report->records_used = s->records_used;
	report->files = s->files;
	report->attributes = c.attributes;
	report->fragmented_before = c.fragmented;
	report->fragments_before = c.fragments;
	report->excess_before = c.excess;
	report->fragmented_files_before = c.files;
	report->clusters_mapped = c.clusters;
	report->free_runs_before = s->free.count;
	report->largest_free_before = longest_run(&s->free);
	figures_unchanged(report);
}

void figures_unchanged(struct volume_report *report)
{
	report->fragmented_after = report->fragmented_before;
	report->fragments_after = report->fragments_before;
	report->excess_after = report->excess_before;
	report->fragmented_files_after = report->fragmented_files_before;
	report->free_runs_after = report->free_runs_before;
	report->largest_free_after = report->largest_free_before;
}

void figures_after(const struct scan *s, struct volume_report *report)
{
	struct counts c = count_attributes(s);
	report->fragmented_after = c.fragmented;
	report->fragments_after = c.fragments;
	report->excess_after = c.excess;
	report->fragmented_files_after = c.files;
	report->free_runs_after = s->free.count;
	report->largest_free_after = longest_run(&s->free);
}

/* ---- what stays ---- */

static void set_stay_path(struct stay *stay, const struct stream_name *name)
{
	char whole[sizeof(name->path) + sizeof(name->stream)];
	size_t length = (size_t)snprintf(whole, sizeof(whole), "%s%s", name->path, name->stream);
	if (length < sizeof(stay->path)) {
		memcpy(stay->path, whole, length + 1);
		return;
	}
	stay->path[0] = '?';
	memcpy(stay->path + 1, whole + length - (sizeof(stay->path) - 2), sizeof(stay->path) - 1);
}

int figures_stays(const struct scan *s, const struct layout *l, struct volume_report *report)
{
	cleanup_free struct stream_name *name = malloc(sizeof(*name));
	if (!name)
		return -ENOMEM;
	for (size_t i = 0; i < l->count; i++) {
		const struct plan_target *target = &l->plan.targets[i];
		if (target->reason == PLAN_OK)
			continue;
		const struct attr *head = &s->attrs[l->first_attr[i]];
		size_t index = report->stay_count++;
		if (index >= REPORT_STAYS_MAX)
			continue;
		struct stay *stay = &report->stays[index];
		stay->record = head->base;
		stay->fragments = target->first_piece == PLAN_STAYS ? l->objects[i].run_count : target->piece_count;
		snprintf(stay->reason, sizeof(stay->reason), "%s", plan_reason_text(s, target->reason, head));
		int r = stream_name_read(s, head, name);
		if (r < 0)
			return r;
		set_stay_path(stay, name);
	}
	return 0;
}

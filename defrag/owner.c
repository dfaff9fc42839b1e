/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/owner.h"

/* Which of an extent's clusters it is, counted from the stream's first; false: none. */
static bool find_cluster(const struct scan *s, const struct attr *extent, uint64_t lcn, uint64_t *vcn)
{
	const struct run *run = &s->runs.runs[extent->first_run];
	*vcn = extent->lowest_vcn;
	for (uint32_t i = 0; i < extent->run_count; i++, run++) {
		if (run->lcn != RUN_HOLE && lcn >= run->lcn && lcn - run->lcn < run->length) {
			*vcn += lcn - run->lcn;
			return true;
		}
		*vcn += run->length;
	}
	return false;
}

/* The first extent of the stream that has the cluster; NULL: none has. */
static const struct attr *find_stream(const struct scan *s, uint64_t lcn, uint64_t *vcn)
{
	for (size_t head = 0, end; head < s->attr_count; head = end) {
		end = scan_stream_end(s, head);
		for (size_t i = head; i < end; i++) {
			if (find_cluster(s, &s->attrs[i], lcn, vcn))
				return &s->attrs[head];
		}
	}
	return NULL;
}

static bool contains(const struct run_list *list, uint64_t lcn)
{
	for (size_t i = 0; i < list->count; i++) {
		if (lcn >= list->runs[i].lcn && lcn - list->runs[i].lcn < list->runs[i].length)
			return true;
	}
	return false;
}

int owner_find(const struct scan *scan, uint64_t off, struct owner *owner)
{
	uint64_t lcn = off / scan->geometry.cluster_size;
	*owner = (struct owner){.kind = OWNER_NOBODY};
	const struct attr *head = find_stream(scan, lcn, &owner->vcn);
	if (head) {
		owner->kind = OWNER_STREAM;
		owner->record = head->base;
		owner->type = head->type;
		return stream_name_read(scan, head, &owner->name);
	}
	if (lcn >= scan->geometry.clusters)
		owner->kind = OWNER_BEYOND;
	else if (contains(&scan->free, lcn))
		owner->kind = OWNER_FREE;
	return 0;
}

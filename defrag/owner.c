/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/owner.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "mapdb/cleanup.h"

/* The extent of an attribute that has the cluster, and which of the attribute's clusters it is; NULL: none has. */
static const struct attr *find_extent(const struct scan *s, uint64_t lcn, uint64_t *vcn)
{
	for (size_t i = 0; i < s->attr_count; i++) {
		const struct attr *attr = &s->attrs[i];
		const struct run *run = &s->runs.runs[attr->first_run];
		*vcn = attr->lowest_vcn;
		for (uint32_t k = 0; k < attr->run_count; k++, run++) {
			if (run->lcn != RUN_HOLE && lcn >= run->lcn && lcn - run->lcn < run->length) {
				*vcn += lcn - run->lcn;
				return attr;
			}
			*vcn += run->length;
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

/* The attribute's own name is in each record that holds an extent of it. */
static int name_stream(const struct scan *s, const struct attr *extent, uint8_t *record, struct owner *owner)
{
	int r = scan_read_record(s, extent->record, record);
	if (r < 0)
		return r;
	record_for_each(attr, record)
	{
		if (le32_to_cpu(attr->type) == extent->type && le16_to_cpu(attr->instance) == extent->instance &&
		    attr->name_length)
			name_to_utf8(attr_name(attr), attr->name_length, owner->stream, sizeof(owner->stream));
	}
	return 0;
}

/* A file whose names are all in other records than its first has none here. */
static int name_file(const struct scan *s, uint8_t *record, struct owner *owner)
{
	int r = scan_read_record(s, owner->record, record);
	const FILE_NAME_ATTR *name = r == 0 ? record_file_name(record) : NULL;
	if (name)
		name_table_path(&s->names, name, owner->path, sizeof(owner->path));
	return r;
}

int owner_find(const struct scan *scan, uint64_t off, struct owner *owner)
{
	uint64_t lcn = off / scan->geometry.cluster_size;
	*owner = (struct owner){.kind = OWNER_NOBODY};
	const struct attr *extent = find_extent(scan, lcn, &owner->vcn);
	if (!extent) {
		if (lcn >= scan->geometry.clusters)
			owner->kind = OWNER_BEYOND;
		else if (contains(&scan->free, lcn))
			owner->kind = OWNER_FREE;
		return 0;
	}
	cleanup_free uint8_t *record = malloc(scan->geometry.record_size);
	if (!record)
		return -ENOMEM;
	owner->kind = OWNER_STREAM;
	owner->record = extent->base;
	owner->type = extent->type;
	int r = name_stream(scan, extent, record, owner);
	return r == 0 ? name_file(scan, record, owner) : r;
}

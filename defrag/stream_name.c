/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/stream_name.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "mapdb/cleanup.h"

/* Whether it is the one that people see. A DOS name is better than none. */
static bool name_path(const struct scan *s, uint8_t *record, struct stream_name *name)
{
	const FILE_NAME_ATTR *found = record_file_name(record);
	bool seen = found && found->file_name_type != FILE_NAME_DOS;
	if (found && (seen || !name->path[0]))
		name_table_path(&s->names, found, name->path, sizeof(name->path));
	return seen;
}

/* A base record that is full of run lists may have its names, or all but the one for DOS, elsewhere. */
static int name_from_list(const struct scan *s, uint8_t *record, struct stream_name *name)
{
	struct attr_list list = {0};
	ATTR_RECORD *attr;
	int r = scan_read_list(s->view, &s->geometry, record, &attr, &list);
	bool seen = false;
	for (size_t i = 0; r == 0 && !seen && i < list.count; i++) {
		if (list.entries[i].type != le32_to_cpu(AT_FILE_NAME))
			continue;
		r = scan_read_record(s, list.entries[i].record, record);
		seen = r == 0 && name_path(s, record, name);
	}
	attr_list_free(&list);
	return r;
}

static int name_file(const struct scan *s, const struct attr *head, uint8_t *record, struct stream_name *name)
{
	int r = scan_read_record(s, head->base, record);
	if (r < 0)
		return r;
	bool seen = name_path(s, record, name);
	if (!seen && (s->kind[head->base] & RECORD_HAS_LIST))
		r = name_from_list(s, record, name);
	if (!name->path[0])
		snprintf(name->path, sizeof(name->path), "MFT record %u", head->base);
	return r;
}

static void name_stream(const ATTR_RECORD *attr, struct stream_name *name)
{
	char text[255 * 3 + 1];
	bool data = attr->type == AT_DATA;
	size_t length = name_to_utf8(attr_name(attr), attr->name_length, text, sizeof(text));
	if (length || !data)
		snprintf(name->stream, sizeof(name->stream), ":%s%s%s", text, data ? "" : ":",
		         data ? "" : attr_type_name(le32_to_cpu(attr->type)));
	name->data_bytes = (uint64_t)sle64_to_cpu(attr->data_size);
}

int stream_name_read(const struct scan *s, const struct attr *head, struct stream_name *name)
{
	cleanup_free uint8_t *record = malloc(s->geometry.record_size);
	if (!record)
		return -ENOMEM;
	name->path[0] = name->stream[0] = 0;
	name->data_bytes = 0;
	int r = scan_read_record(s, head->record, record);
	if (r < 0)
		return r;
	const ATTR_RECORD *attr = record_find_attr(record, head);
	if (attr)
		name_stream(attr, name);
	return name_file(s, head, record, name);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/choose.h"

#include <errno.h>
#include <stdlib.h>

#include "mapdb/cleanup.h"

struct chooser {
	const struct scan *scan;
	const struct selection *selection;
	uint8_t *found;     /* see choose_objects */
	uint8_t *record;    /* a base record */
	uint8_t *extension; /* one of its extension records */
	char *path;
};

/* ---- one file ---- */

/* A file may have several names; the one for DOS says nothing new. */
static unsigned int match_name(const struct chooser *c, ATTR_RECORD *attr)
{
	const FILE_NAME_ATTR *name = attr_file_name(attr);
	if (!name || name->file_name_type == FILE_NAME_DOS)
		return 0;
	name_table_path(&c->scan->names, name, c->path, NAME_PATH_SIZE_MAX);
	return selection_match(c->selection, c->path, c->found);
}

static int match_names_elsewhere(const struct chooser *c, uint32_t base, unsigned int *matches)
{
	struct attr_list list = {0};
	ATTR_RECORD *list_attr;
	uint64_t loaded = UINT64_MAX;
	int r = scan_read_list(c->scan->view, &c->scan->geometry, c->record, &list_attr, &list);
	for (size_t i = 0; r == 0 && i < list.count; i++) {
		const struct list_entry *entry = &list.entries[i];
		if (entry->type != le32_to_cpu(AT_FILE_NAME) || entry->record == base)
			continue;
		if (loaded != entry->record)
			r = scan_read_record(c->scan, entry->record, c->extension);
		loaded = entry->record;
		ATTR_RECORD *attr = r == 0 ? record_find_entry(c->extension, entry) : NULL;
		*matches |= attr ? match_name(c, attr) : 0;
	}
	attr_list_free(&list);
	return r;
}

static int match_file(const struct chooser *c, uint32_t base, bool *chosen)
{
	unsigned int matches = 0;
	int r = scan_read_record(c->scan, base, c->record);
	if (r < 0)
		return r;
	record_for_each(attr, c->record) matches |= match_name(c, attr);
	if (c->scan->kind[base] & RECORD_HAS_LIST)
		r = match_names_elsewhere(c, base, &matches);
	*chosen = selection_chooses(matches);
	return r;
}

/* ---- all of them ---- */

static int find_files(const struct chooser *c)
{
	int r = 0;
	for (uint64_t i = 0; r == 0 && i < c->scan->record_count; i++) {
		bool chosen;
		if ((c->scan->kind[i] & (RECORD_USED | RECORD_EXTENSION)) == RECORD_USED)
			r = match_file(c, (uint32_t)i, &chosen);
	}
	return r;
}

static bool numbers_match(const struct chooser *c, const struct plan_object *object)
{
	return object->run_count > 1 && object->run_count >= c->selection->min_fragments &&
	       object->length >=
	               (c->selection->min_bytes + c->scan->geometry.cluster_size - 1) / c->scan->geometry.cluster_size;
}

static int mark_objects(const struct chooser *c, struct layout *l)
{
	bool by_name = selection_needs_names(c->selection), chosen = true;
	uint64_t known = UINT64_MAX; /* the file that chosen is about */
	for (size_t i = 0; i < l->count; i++) {
		struct plan_object *object = &l->objects[i];
		uint32_t base = c->scan->attrs[l->first_attr[i]].base;
		bool wanted = numbers_match(c, object);
		if (wanted && by_name && known != base) {
			int r = match_file(c, base, &chosen);
			if (r < 0)
				return r;
			known = base;
		}
		if (!wanted || !chosen)
			object->kind = PLAN_UNWANTED;
	}
	return 0;
}

int choose_objects(const struct scan *s, const struct selection *selection, struct layout *l, uint8_t *found)
{
	cleanup_free uint8_t *records = malloc(2ul * s->geometry.record_size);
	cleanup_free char *path = malloc(NAME_PATH_SIZE_MAX);
	struct chooser c = {.scan = s, .selection = selection, .found = found, .record = records, .path = path};
	if (!records || !path)
		return -ENOMEM;
	c.extension = records + s->geometry.record_size;
	int r = selection->files.count && found ? find_files(&c) : 0;
	c.found = NULL;
	return r < 0 ? r : mark_objects(&c, l);
}

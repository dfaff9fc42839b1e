/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/file_edit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mapdb/cleanup.h"

#define END_MARKER_SIZE 8u

void file_edit_free(struct file_edit *edit)
{
	for (size_t i = 0; i < edit->count; i++) {
		free(edit->records[i].before);
		free(edit->records[i].after);
	}
	free(edit->records);
	attr_list_free(&edit->list);
	run_list_free(&edit->list_runs);
	free(edit->list_before);
	*edit = (struct file_edit){0};
}

/* ---- loading ---- */

static int load_record(struct file_edit *edit, uint32_t number)
{
	const struct scan *s = edit->scan;
	uint32_t size = s->geometry.record_size;
	struct edited_record *grown = reallocarray(edit->records, edit->count + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	edit->records = grown;
	struct edited_record *record = &edit->records[edit->count];
	*record = (struct edited_record){.number = number, .before = malloc(size), .after = malloc(size)};
	edit->count++;
	if (!record->before || !record->after)
		return -ENOMEM;
	int r = view_read_runs(s->view, &s->mft, s->geometry.cluster_size, record->before, size,
	                       (uint64_t)number * size);
	if (r < 0)
		return r;
	memcpy(record->after, record->before, size);
	r = record_unprotect(record->after, size);
	return r < 0 ? r : record_check(record->after, size);
}

static struct edited_record *find_record(struct file_edit *edit, uint32_t number)
{
	for (size_t i = 0; i < edit->count; i++)
		if (edit->records[i].number == number)
			return &edit->records[i];
	return NULL;
}

static int load_extensions(struct file_edit *edit)
{
	uint32_t last = edit->records[0].number;
	for (size_t i = 0; i < edit->list.count; i++) {
		uint32_t number = edit->list.entries[i].record;
		if (number == last || find_record(edit, number))
			continue;
		int r = load_record(edit, number);
		if (r < 0)
			return r;
		last = number;
	}
	return 0;
}

static int keep_list_bytes(struct file_edit *edit, const ATTR_RECORD *attr)
{
	uint64_t vcns;
	edit->has_list = true;
	edit->list_size_before =
	        attr->non_resident ? (size_t)sle64_to_cpu(attr->data_size) : le32_to_cpu(attr->value_length);
	edit->list_before = malloc(edit->list_size_before);
	if (!edit->list_before)
		return -ENOMEM;
	memcpy(edit->list_before, edit->list.bytes, edit->list_size_before);
	if (!attr->non_resident)
		return 0;
	return mapping_pairs_decode((const uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr),
	                            edit->scan->geometry.clusters, &edit->list_runs, &vcns);
}

int file_edit_load(const struct scan *scan, uint32_t base, struct file_edit *edit)
{
	ATTR_RECORD *attr;
	*edit = (struct file_edit){.scan = scan};
	int r = load_record(edit, base);
	if (r == 0 && (scan->kind[base] & RECORD_HAS_LIST)) {
		r = scan_read_list(scan->view, &scan->geometry, edit->records[0].after, &attr, &edit->list);
		if (r == 0)
			r = keep_list_bytes(edit, attr);
		if (r == 0)
			r = load_extensions(edit);
	}
	if (r < 0)
		file_edit_free(edit);
	return r;
}

/* ---- moving a stream ---- */

ATTR_RECORD *file_edit_find(struct file_edit *edit, const struct attr *attr, uint8_t **holder)
{
	struct edited_record *record = find_record(edit, attr->record);
	if (holder)
		*holder = record ? record->after : NULL;
	return record ? record_find_attr(record->after, attr) : NULL;
}

static struct list_entry *find_entry(struct file_edit *edit, const struct attr *attr)
{
	for (size_t i = 0; i < edit->list.count; i++) {
		struct list_entry *entry = &edit->list.entries[i];
		if (entry->type == attr->type && entry->record == attr->record && entry->instance == attr->instance)
			return entry;
	}
	return NULL;
}

static uint64_t total_vcns(const struct run *runs, size_t count)
{
	uint64_t vcns = 0;
	for (size_t i = 0; i < count; i++)
		vcns += runs[i].length;
	return vcns;
}

static int set_extent(struct file_edit *edit, const struct attr *extent, uint64_t lowest_vcn, const struct run *runs,
                      size_t count)
{
	uint8_t *record;
	ATTR_RECORD *attr = file_edit_find(edit, extent, &record);
	struct list_entry *entry = find_entry(edit, extent);
	if (!attr || (edit->has_list && !entry && attr->type != AT_ATTRIBUTE_LIST))
		return -EUCLEAN;
	attr->lowest_vcn = cpu_to_sle64((int64_t)lowest_vcn);
	attr->highest_vcn = cpu_to_sle64((int64_t)(lowest_vcn + total_vcns(runs, count)) - 1);
	if (entry)
		entry->lowest_vcn = lowest_vcn;
	int r = record_set_runs(record, attr, runs, count);
	if (r < 0)
		return r;
	/* No longer than it must be: then it may fit into the base record. */
	return record_resize_attr(record, attr, (uint32_t)(attr_pairs_off(attr) + mapping_pairs_size(runs, count)));
}

static int remove_extent(struct file_edit *edit, const struct attr *extent)
{
	uint8_t *record;
	ATTR_RECORD *attr = file_edit_find(edit, extent, &record);
	struct list_entry *entry = find_entry(edit, extent);
	if (!attr || !entry)
		return -EUCLEAN;
	record_remove_attr(record, attr);
	size_t index = (size_t)(entry - edit->list.entries);
	memmove(entry, entry + 1, (--edit->list.count - index) * sizeof(*entry));
	return 0;
}

/* How many of the runs an extent takes, in the room that is its own. */
static size_t runs_that_fit(const struct attr *extent, const struct run *runs, size_t count)
{
	uint8_t scratch[4096];
	size_t used, room = extent->room < sizeof(scratch) ? extent->room : sizeof(scratch);
	return mapping_pairs_encode(runs, count, scratch, room, &used);
}

/* Record 15 is kept for the first extension of $MFT: what is to become of it afterwards is NTFS's to know. */
static bool may_be_freed(uint32_t record)
{
	return record >= RESERVED_RECORDS;
}

/* $MFT is read extent by extent: the record that has the next one must be in those before it. */
static bool leads_on(const struct geometry *g, const struct attr *extent, uint64_t vcns)
{
	bool found_through_itself = extent->base == FILE_MFT && extent->type == le32_to_cpu(AT_DATA);
	return !found_through_itself || extent->record == FILE_MFT ||
	       (extent->record + UINT64_C(1)) * g->record_size <= vcns * g->cluster_size;
}

/* Fills the extents from the first one on; those that get nothing go, but never the first: it has the sizes. False if
 * the runs do not fit that way. */
static bool can_draw_together(const struct geometry *g, const struct attr *extents, size_t count,
                              const struct run *runs, size_t run_count)
{
	size_t done = 0;
	uint64_t vcns = 0;
	/* Extents of what is compressed, or made to be, begin where a compression unit does, which matters to whoever
	 * decompresses: all into one, or as they are. */
	bool in_units = extents[0].compression_unit || extents[0].flags & le16_to_cpu(ATTR_IS_COMPRESSED);
	for (size_t i = 0; i < count; i++)
		if (extents[i].record != extents[i].base && !may_be_freed(extents[i].record))
			return false;
	for (size_t i = 0; i < count && done < run_count; i++) {
		if (in_units && i)
			return false;
		size_t here = runs_that_fit(&extents[i], runs + done, run_count - done);
		if (here ? !leads_on(g, &extents[i], vcns) : !i)
			return false;
		vcns += total_vcns(runs + done, here);
		done += here;
	}
	return done == run_count;
}

static int draw_together(struct file_edit *edit, const struct attr *extents, size_t count, const struct run *runs,
                         size_t run_count)
{
	size_t done = 0;
	uint64_t vcn = 0;
	int r = 0;
	for (size_t i = 0; r == 0 && i < count; i++) {
		size_t here = runs_that_fit(&extents[i], runs + done, run_count - done);
		if (here)
			r = set_extent(edit, &extents[i], vcn, runs + done, here);
		else
			r = remove_extent(edit, &extents[i]);
		vcn += total_vcns(runs + done, here);
		done += here;
	}
	return r;
}

int file_edit_move_stream(struct file_edit *edit, const struct layout *layout, size_t object, size_t first, size_t end)
{
	const struct attr *extents = &edit->scan->attrs[first];
	size_t count = end - first;
	struct run_list whole = {0}, slice = {0};
	uint64_t cluster = 0;
	int r = 0;
	for (size_t i = 0; r == 0 && i < count; i++) {
		slice.count = 0;
		r = layout_new_runs(edit->scan, layout, object, &extents[i], &cluster, &slice);
		for (size_t k = 0; r == 0 && k < slice.count; k++)
			r = run_list_push_merged(&whole, 0, slice.runs[k].lcn, slice.runs[k].length);
	}
	bool together = r == 0 && count > 1 &&
	                can_draw_together(&edit->scan->geometry, extents, count, whole.runs, whole.count);
	if (together)
		r = draw_together(edit, extents, count, whole.runs, whole.count);
	cluster = 0;
	for (size_t i = 0; r == 0 && !together && i < count; i++) {
		slice.count = 0;
		r = layout_new_runs(edit->scan, layout, object, &extents[i], &cluster, &slice);
		if (r == 0)
			r = set_extent(edit, &extents[i], extents[i].lowest_vcn, slice.runs, slice.count);
	}
	run_list_free(&whole);
	run_list_free(&slice);
	return r;
}

/* ---- what follows from it ---- */

static ATTR_RECORD *find_list_attr(struct file_edit *edit)
{
	record_for_each(attr, edit->records[0].after) if (attr->type == AT_ATTRIBUTE_LIST) return attr;
	return NULL;
}

static bool has_divided_stream(const struct file_edit *edit)
{
	for (size_t i = 0; i < edit->list.count; i++)
		if (edit->list.entries[i].lowest_vcn)
			return true;
	return false;
}

/* The number for another attribute of a record: above all that are there, whatever the record says of it. It need not
 * be one that there is. */
static uint32_t next_instance(uint8_t *record)
{
	uint32_t next = le16_to_cpu(mft_record(record)->next_attr_instance);
	record_for_each(attr, record) if (le16_to_cpu(attr->instance) >= next) next = le16_to_cpu(attr->instance) + 1u;
	return next;
}

/* Builds the base record with all attributes in it, in the list's order, which is the order that attributes have. */
static int gather_attributes(struct file_edit *edit, uint8_t *gathered)
{
	uint32_t size = edit->scan->geometry.record_size;
	struct edited_record *base = &edit->records[0];
	MFT_RECORD *m = mft_record(gathered);
	uint32_t used = le16_to_cpu(mft_record(base->after)->attrs_offset);
	memset(gathered, 0, size);
	memcpy(gathered, base->after, used);
	uint32_t next = next_instance(base->after);
	for (size_t i = 0; i < edit->list.count; i++) {
		const struct list_entry *entry = &edit->list.entries[i];
		struct edited_record *holder = find_record(edit, entry->record);
		const ATTR_RECORD *attr = holder ? record_find_entry(holder->after, entry) : NULL;
		if (!attr)
			return -EUCLEAN;
		uint32_t length = le32_to_cpu(attr->length);
		if (length > size - END_MARKER_SIZE - used || next >= UINT16_MAX)
			return -ENOSPC;
		ATTR_RECORD *copy = (ATTR_RECORD *)(gathered + used);
		memcpy(copy, attr, length);
		used += length;
		if (holder == base)
			continue;
		copy->instance = cpu_to_le16((uint16_t)next++);
		m->next_attr_instance = cpu_to_le16((uint16_t)next);
	}
	*(uint32_t *)(gathered + used) = (uint32_t)AT_END;
	m->bytes_in_use = cpu_to_le32(used + END_MARKER_SIZE);
	return 0;
}

/* -ENOSPC: not everything fits into the base record, so the list stays. */
static int drop_list(struct file_edit *edit)
{
	cleanup_free uint8_t *gathered = malloc(edit->scan->geometry.record_size);
	if (!gathered)
		return -ENOMEM;
	bool possible = !has_divided_stream(edit);
	for (size_t i = 1; i < edit->count; i++)
		possible &= may_be_freed(edit->records[i].number);
	int r = possible ? gather_attributes(edit, gathered) : -ENOSPC;
	if (r < 0)
		return r;
	memcpy(edit->records[0].after, gathered, edit->scan->geometry.record_size);
	for (size_t i = 1; i < edit->count; i++)
		while (record_next(edit->records[i].after, NULL))
			record_remove_attr(edit->records[i].after, record_next(edit->records[i].after, NULL));
	edit->list_dropped = true;
	return 0;
}

static int rewrite_list(struct file_edit *edit)
{
	ATTR_RECORD *attr = find_list_attr(edit);
	size_t size = attr_list_size(&edit->list);
	if (!attr || size > edit->list_size_before)
		return -EUCLEAN;
	if (attr->non_resident) {
		attr->data_size = attr->initialized_size = cpu_to_sle64((int64_t)size);
		return 0;
	}
	attr_list_write(&edit->list, attr_value(attr));
	attr->value_length = cpu_to_le32((uint32_t)size);
	return record_resize_attr(edit->records[0].after, attr, le16_to_cpu(attr->value_offset) + (uint32_t)size);
}

static void free_empty_records(struct file_edit *edit)
{
	for (size_t i = 1; i < edit->count; i++) {
		MFT_RECORD *m = mft_record(edit->records[i].after);
		if (record_next(edit->records[i].after, NULL))
			continue;
		uint16_t sequence = (uint16_t)(le16_to_cpu(m->sequence_number) + 1);
		m->flags &= (le16)~MFT_RECORD_IN_USE;
		m->sequence_number = cpu_to_le16(sequence ? sequence : 1);
		edit->records[i].freed = true;
	}
}

int file_edit_finish(struct file_edit *edit)
{
	int r = 0;
	if (edit->has_list) {
		r = drop_list(edit);
		if (r == -ENOSPC)
			r = rewrite_list(edit);
		free_empty_records(edit);
	}
	for (size_t i = 0; i < edit->count; i++)
		record_protect(edit->records[i].after, edit->scan->geometry.record_size);
	return r;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/rewrite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "defrag/file_edit.h"
#include "mapdb/cleanup.h"

#define CHUNK_SIZE      (1u << 20)
#define BITMAP_CHUNK    (64u * 1024)
#define STREAM_NAME_MAX (255 * 3 + 1)
#define PATH_SIZE_MAX   4096

/* A simple patch: an object whose one extent is in a base record without an attribute list. */
struct patch {
	uint32_t record;
	uint32_t object;
};

struct rewrite {
	const struct scan *scan;
	const struct layout *layout;
	struct changes *changes;
	scan_progress progress;
	rewrite_moved moved;
	void *context;
	struct rewrite_result *result;
	struct patch *patches; /* ascending, as objects are */
	size_t patch_count;
	struct run_list records_freed; /* as runs of record numbers */
};

/* ---- putting records ---- */

/* $MFTMirr holds the first records once more; whatever it held of this one, it gets the new contents. */
static int put_mirror(struct rewrite *w, uint64_t number, const uint8_t *after)
{
	const struct scan *s = w->scan;
	const struct geometry *g = &s->geometry;
	uint64_t mirrored = g->cluster_size / g->record_size > 4 ? g->cluster_size / g->record_size : 4;
	if (number >= mirrored)
		return 0;
	uint64_t off = g->mirror_lcn * g->cluster_size + number * g->record_size;
	cleanup_free uint8_t *before = malloc(g->record_size);
	if (!before)
		return -ENOMEM;
	int r = view_read(s->view, before, g->record_size, off);
	if (r < 0)
		return r;
	struct run whole = {.lcn = 0, .length = g->clusters};
	struct run_index volume;
	r = run_index_build(&volume, &whole, 1);
	if (r == 0)
		r = changes_diff(w->changes, s->view, &volume, g->cluster_size, off, before, after, g->record_size);
	run_index_free(&volume);
	return r;
}

static int put_record(struct rewrite *w, uint64_t number, const uint8_t *before, const uint8_t *after)
{
	const struct geometry *g = &w->scan->geometry;
	int r = changes_diff(w->changes, w->scan->view, &w->scan->mft, g->cluster_size, number * g->record_size, before,
	                     after, g->record_size);
	return r < 0 ? r : put_mirror(w, number, after);
}

static int tell_moved(struct rewrite *w, size_t object, const FILE_NAME_ATTR *name, const ATTR_RECORD *attr)
{
	char path[PATH_SIZE_MAX] = "", stream[STREAM_NAME_MAX] = "";
	const struct attr *head = &w->scan->attrs[w->layout->first_attr[object]];
	if (!w->moved)
		return 0;
	if (name)
		name_table_path(&w->scan->names, name, path, sizeof(path));
	if (attr && attr->name_length)
		name_to_utf8(attr_name(attr), attr->name_length, stream, sizeof(stream));
	return w->moved(w->context, head, path, stream, &w->layout->objects[object], &w->layout->plan.targets[object]);
}

/* ---- simple patches ---- */

static int patch_attr(struct rewrite *w, uint8_t *record, size_t object)
{
	const struct attr *attr = &w->scan->attrs[w->layout->first_attr[object]];
	ATTR_RECORD *found = record_find_attr(record, attr);
	struct run_list runs = {0};
	uint64_t cluster = 0;
	int r = found ? layout_new_runs(w->scan, w->layout, object, attr, &cluster, &runs) : -EUCLEAN;
	if (r == 0)
		r = record_set_runs(record, found, runs.runs, runs.count);
	run_list_free(&runs);
	if (r == 0)
		r = tell_moved(w, object, record_file_name(record), record_find_attr(record, attr));
	return r;
}

/* raw is one record as on disk; before is room for a copy. */
static int patch_record(struct rewrite *w, size_t first, size_t end, uint8_t *raw, uint8_t *before)
{
	uint32_t size = w->scan->geometry.record_size, number = w->patches[first].record;
	memcpy(before, raw, size);
	int r = record_unprotect(raw, size);
	if (r == 0)
		r = record_check(raw, size);
	for (size_t i = first; r == 0 && i < end; i++)
		r = patch_attr(w, raw, w->patches[i].object);
	if (r < 0)
		return r;
	record_protect(raw, size);
	return put_record(w, number, before, raw);
}

static size_t patches_end(const struct rewrite *w, size_t first)
{
	size_t end = first + 1;
	while (end < w->patch_count && w->patches[end].record == w->patches[first].record)
		end++;
	return end;
}

/* Reads the pieces of $MFT that hold records to patch. */
static int patch_records(struct rewrite *w)
{
	const struct geometry *g = &w->scan->geometry;
	uint32_t size = g->record_size;
	cleanup_free uint8_t *chunk = malloc(CHUNK_SIZE + size);
	if (!chunk)
		return -ENOMEM;
	for (size_t i = 0, end; i < w->patch_count;) {
		uint64_t first = w->patches[i].record / (CHUNK_SIZE / size) * (CHUNK_SIZE / size);
		uint64_t count = CHUNK_SIZE / size;
		if (count > w->scan->record_count - first)
			count = w->scan->record_count - first;
		uint64_t skip = w->patches[i].record - first;
		int r = view_read_runs(w->scan->view, &w->scan->mft, g->cluster_size, chunk + skip * size,
		                       (count - skip) * size, (first + skip) * size);
		for (; r == 0 && i < w->patch_count && w->patches[i].record < first + count; i = end) {
			end = patches_end(w, i);
			r = patch_record(w, i, end, chunk + (w->patches[i].record - first) * size, chunk + CHUNK_SIZE);
		}
		if (r == 0 && w->progress && w->progress(w->context, first + count, w->scan->record_count))
			r = -ECANCELED;
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- files with attribute lists, and $MFT ---- */

static const FILE_NAME_ATTR *edit_file_name(struct file_edit *edit)
{
	const FILE_NAME_ATTR *found = NULL;
	for (size_t i = 0; i < edit->count; i++) {
		const FILE_NAME_ATTR *name = record_file_name(edit->records[i].after);
		if (name && name->file_name_type != FILE_NAME_DOS)
			return name;
		found = found ? found : name;
	}
	return found;
}

static int put_list(struct rewrite *w, struct file_edit *edit)
{
	struct run_index runs;
	size_t size = attr_list_size(&edit->list);
	cleanup_free uint8_t *after = malloc(edit->list_size_before);
	if (!after)
		return -ENOMEM;
	memcpy(after, edit->list_before, edit->list_size_before);
	attr_list_write(&edit->list, after);
	int r = run_index_build(&runs, edit->list_runs.runs, edit->list_runs.count);
	if (r == 0)
		r = changes_diff(w->changes, w->scan->view, &runs, w->scan->geometry.cluster_size, 0, edit->list_before,
		                 after, size);
	run_index_free(&runs);
	return r;
}

/* Where the clusters of a list that is no longer needed are after the pass. */
static int free_list_clusters(struct rewrite *w, const struct file_edit *edit, size_t list_object)
{
	const struct attr *attr = &w->scan->attrs[w->layout->first_attr[list_object]];
	uint64_t cluster = 0;
	int r = 0;
	if (layout_moves(w->layout, list_object))
		return layout_new_runs(w->scan, w->layout, list_object, attr, &cluster, &w->result->clusters_freed);
	for (size_t i = 0; r == 0 && i < edit->list_runs.count; i++)
		r = run_list_push(&w->result->clusters_freed, edit->list_runs.runs[i].lcn,
		                  edit->list_runs.runs[i].length);
	return r;
}

static int put_edit(struct rewrite *w, struct file_edit *edit, size_t list_object)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < edit->count; i++) {
		struct edited_record *record = &edit->records[i];
		r = put_record(w, record->number, record->before, record->after);
		if (r == 0 && record->freed) {
			w->result->records_freed++;
			r = run_list_push(&w->records_freed, record->number, 1);
		}
	}
	if (r == 0 && edit->list_runs.count)
		r = edit->list_dropped ? free_list_clusters(w, edit, list_object) : put_list(w, edit);
	return r;
}

/* $MFT's bitmap, when it is inside record 0, changes together with that record. */
static void clear_resident_bitmap(struct rewrite *w, uint8_t *record)
{
	record_for_each(attr, record)
	{
		if (attr->type != AT_BITMAP || attr->non_resident || attr->name_length)
			continue;
		for (size_t i = 0; i < w->records_freed.count; i++) {
			uint64_t number = w->records_freed.runs[i].lcn;
			if (number / 8 < le32_to_cpu(attr->value_length))
				attr_value(attr)[number / 8] &= (uint8_t) ~(1u << (number % 8));
		}
	}
}

static int note_freed_of_mft(struct rewrite *w, struct file_edit *edit)
{
	for (size_t i = 0; i < edit->count; i++) {
		if (!edit->records[i].freed)
			continue;
		int r = run_list_push(&w->records_freed, edit->records[i].number, 1);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Objects [first, end) all belong to the file. */
static int rewrite_file(struct rewrite *w, uint32_t base, size_t first, size_t end)
{
	struct file_edit edit;
	const struct layout *l = w->layout;
	size_t list_object = SIZE_MAX;
	uint32_t size = w->scan->geometry.record_size;
	int r = file_edit_load(w->scan, base, &edit);
	if (r < 0)
		return r;
	for (size_t i = first; r == 0 && i < end; i++) {
		size_t head = l->first_attr[i];
		const struct attr *attr = &w->scan->attrs[head];
		if (attr->type == le32_to_cpu(AT_ATTRIBUTE_LIST))
			list_object = i;
		if (!layout_moves(l, i))
			continue;
		const ATTR_RECORD *found = file_edit_find(&edit, attr, NULL);
		r = found ? tell_moved(w, i, edit_file_name(&edit), found) : -EUCLEAN;
		if (r == 0)
			r = file_edit_move_stream(&edit, l, i, head, scan_stream_end(w->scan, head));
	}
	if (r == 0)
		r = file_edit_finish(&edit);
	if (r == 0 && base == FILE_MFT && w->scan->mft_bitmap_resident) {
		r = note_freed_of_mft(w, &edit);
		record_unprotect(edit.records[0].after, size);
		clear_resident_bitmap(w, edit.records[0].after);
		record_protect(edit.records[0].after, size);
	}
	if (r == 0)
		r = put_edit(w, &edit, list_object);
	file_edit_free(&edit);
	return r;
}

/* ---- the two bitmaps ---- */

static void set_bits(uint8_t *bits, uint64_t first, uint64_t count, const struct run *run, bool value)
{
	uint64_t from = run->lcn > first ? run->lcn : first;
	uint64_t to = run->lcn + run->length < first + count ? run->lcn + run->length : first + count;
	for (; from < to; from++) {
		uint64_t bit = from - first;
		if (bit % 8 == 0 && to - from >= 8) {
			bits[bit / 8] = value ? 0xff : 0;
			from += 7;
		} else if (value) {
			bits[bit / 8] |= (uint8_t)(1u << (bit % 8));
		} else {
			bits[bit / 8] &= (uint8_t) ~(1u << (bit % 8));
		}
	}
}

/* Applies the part of the sorted runs that lies in the chunk; *next is the first run that may still matter. */
static void apply_runs(uint8_t *bits, uint64_t first, uint64_t count, const struct run_list *runs, size_t *next,
                       bool value)
{
	while (*next < runs->count && runs->runs[*next].lcn + runs->runs[*next].length <= first)
		++*next;
	for (size_t i = *next; i < runs->count && runs->runs[i].lcn < first + count; i++)
		set_bits(bits, first, count, &runs->runs[i], value);
}

struct bit_change {
	const struct run_list *runs; /* sorted */
	bool value;
	size_t next;
};

static uint64_t next_touched(const struct bit_change *changes, size_t count, uint64_t from)
{
	uint64_t next = UINT64_MAX;
	for (size_t i = 0; i < count; i++) {
		const struct run_list *runs = changes[i].runs;
		size_t k = changes[i].next;
		while (k < runs->count && runs->runs[k].lcn + runs->runs[k].length <= from)
			k++;
		if (k < runs->count) {
			uint64_t at = runs->runs[k].lcn > from ? runs->runs[k].lcn : from;
			next = at < next ? at : next;
		}
	}
	return next;
}

/* Changes bits of a bitmap that is an attribute's data; later changes win. Reads only the pieces that change. */
static int change_bits(struct rewrite *w, uint32_t base, uint32_t type, uint64_t bit_count,
                       struct bit_change *bit_changes, size_t change_count)
{
	const struct geometry *g = &w->scan->geometry;
	struct run_list runs = {0};
	struct run_index index = {0};
	cleanup_free uint8_t *buffers = malloc(2ul * BITMAP_CHUNK);
	int r = buffers ? scan_stream_runs(w->scan, base, type, &runs) : -ENOMEM;
	if (r == 0)
		r = run_index_build(&index, runs.runs, runs.count);
	uint64_t bytes = (bit_count + 7) / 8;
	for (uint64_t bit = 0; r == 0;) {
		bit = next_touched(bit_changes, change_count, bit);
		if (bit >= bit_count)
			break;
		uint64_t off = bit / 8 / BITMAP_CHUNK * BITMAP_CHUNK, size = bytes - off;
		uint8_t *before = buffers, *after = buffers + BITMAP_CHUNK;
		if (size > BITMAP_CHUNK)
			size = BITMAP_CHUNK;
		r = view_read_runs(w->scan->view, &index, g->cluster_size, before, size, off);
		memcpy(after, before, size);
		for (size_t i = 0; i < change_count; i++)
			apply_runs(after, off * 8, size * 8, bit_changes[i].runs, &bit_changes[i].next,
			           bit_changes[i].value);
		if (r == 0)
			r = changes_diff(w->changes, w->scan->view, &index, g->cluster_size, off, before, after, size);
		bit = (off + BITMAP_CHUNK) * 8;
	}
	run_index_free(&index);
	run_list_free(&runs);
	return r;
}

static int rewrite_bitmaps(struct rewrite *w)
{
	const struct plan_permutation *p = &w->layout->permutation;
	int r = run_list_sort(&w->result->clusters_freed);
	struct bit_change clusters[] = {
	        {.runs = &p->entered, .value = true},
	        {.runs = &p->left, .value = false},
	        {.runs = &w->result->clusters_freed, .value = false},
	};
	if (r == 0)
		r = change_bits(w, FILE_Bitmap, le32_to_cpu(AT_DATA), w->scan->geometry.clusters, clusters, 3);
	if (r < 0 || w->scan->mft_bitmap_resident || !w->records_freed.count)
		return r;
	r = run_list_sort(&w->records_freed);
	struct bit_change records[] = {{.runs = &w->records_freed, .value = false}};
	return r < 0 ? r : change_bits(w, FILE_MFT, le32_to_cpu(AT_BITMAP), w->scan->record_count, records, 1);
}

/* ---- all of it ---- */

/* Edits the files that need it, collects the simple patches of the others. $MFT comes last: its bitmap may be inside
 * it. */
static int rewrite_files(struct rewrite *w)
{
	const struct layout *l = w->layout;
	size_t mft_end = 0;
	bool mft_moves = false;
	int r = 0;
	for (size_t i = 0, end; r == 0 && i < l->count; i = end) {
		uint32_t base = w->scan->attrs[l->first_attr[i]].base;
		bool moves = false;
		for (end = i; end < l->count && w->scan->attrs[l->first_attr[end]].base == base; end++)
			moves |= layout_moves(l, end);
		if (base == FILE_MFT) {
			mft_end = end;
			mft_moves = moves;
		} else if (moves && (w->scan->kind[base] & RECORD_HAS_LIST)) {
			r = rewrite_file(w, base, i, end);
		} else if (moves) {
			for (size_t k = i; k < end; k++)
				if (layout_moves(l, k))
					w->patches[w->patch_count++] =
					        (struct patch){.record = base, .object = (uint32_t)k};
		}
	}
	if (r == 0 && (mft_moves || (w->records_freed.count && w->scan->mft_bitmap_resident)))
		r = rewrite_file(w, FILE_MFT, 0, mft_end);
	return r;
}

int rewrite_volume(const struct scan *scan, const struct layout *layout, struct changes *changes,
                   scan_progress progress, rewrite_moved moved, void *context, struct rewrite_result *result)
{
	struct rewrite w = {
	        .scan = scan,
	        .layout = layout,
	        .changes = changes,
	        .progress = progress,
	        .moved = moved,
	        .context = context,
	        .result = result,
	        .patches = malloc((layout->count + 1) * sizeof(*w.patches)),
	};
	*result = (struct rewrite_result){0};
	int r = w.patches ? rewrite_files(&w) : -ENOMEM;
	if (r == 0)
		r = patch_records(&w);
	if (r == 0)
		r = rewrite_bitmaps(&w);
	if (r == 0)
		r = changes_finish(changes);
	free(w.patches);
	run_list_free(&w.records_freed);
	return r;
}

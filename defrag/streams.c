/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/streams.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mapdb/cleanup.h"

/* ---- in order ---- */

static int compare_attrs(const void *a, const void *b)
{
	const struct attr *x = a, *y = b;
	if (x->base != y->base)
		return x->base < y->base ? -1 : 1;
	if (x->type != y->type)
		return x->type < y->type ? -1 : 1;
	if (x->name_hash != y->name_hash)
		return x->name_hash < y->name_hash ? -1 : 1;
	return x->lowest_vcn < y->lowest_vcn ? -1 : x->lowest_vcn > y->lowest_vcn;
}

static int by_base(const void *a, const void *b)
{
	uint32_t x = ((const struct attr *)a)->base, y = ((const struct attr *)b)->base;
	return x < y ? -1 : x > y;
}

/* Attributes come in the order of the records that hold them, and so almost in order: those of extension records are
 * taken out, sorted and merged back in from the end; then each file's few are sorted among themselves. */
int streams_sort(struct scan *s)
{
	size_t stay = 0, moved = 0;
	for (size_t i = 0; i < s->attr_count; i++)
		moved += s->attrs[i].record != s->attrs[i].base;
	if (moved) {
		cleanup_free struct attr *ext = malloc(moved * sizeof(*ext));
		if (!ext)
			return -ENOMEM;
		moved = 0;
		for (size_t i = 0; i < s->attr_count; i++) {
			if (s->attrs[i].record != s->attrs[i].base)
				ext[moved++] = s->attrs[i];
			else
				s->attrs[stay++] = s->attrs[i];
		}
		qsort(ext, moved, sizeof(*ext), by_base);
		for (size_t to = s->attr_count; moved;)
			s->attrs[--to] =
			        stay && s->attrs[stay - 1].base > ext[moved - 1].base ? s->attrs[--stay] : ext[--moved];
	}
	for (size_t i = 0, end; i < s->attr_count; i = end) {
		for (end = i + 1; end < s->attr_count && s->attrs[end].base == s->attrs[i].base; end++)
			;
		if (end - i > 1)
			qsort(s->attrs + i, end - i, sizeof(*s->attrs), compare_attrs);
	}
	return 0;
}

size_t scan_stream_end(const struct scan *s, size_t first)
{
	const struct attr *a = &s->attrs[first];
	size_t end = first + 1;
	while (end < s->attr_count && s->attrs[end].base == a->base && s->attrs[end].type == a->type &&
	       s->attrs[end].name_hash == a->name_hash)
		end++;
	return end;
}

uint64_t scan_stream_pieces(const struct scan *s, size_t first, size_t end)
{
	uint64_t pieces = 0, next = RUN_HOLE;
	for (size_t i = first; i < end; i++) {
		const struct attr *attr = &s->attrs[i];
		for (uint32_t k = 0; k < attr->run_count; k++) {
			const struct run *run = &s->runs.runs[attr->first_run + k];
			if (run->lcn == RUN_HOLE)
				continue;
			pieces += run->lcn != next;
			next = run->lcn + run->length;
		}
	}
	return pieces;
}

int scan_stream_runs(const struct scan *s, uint32_t base, uint32_t type, struct run_list *runs)
{
	size_t low = 0, high = s->attr_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct attr *a = &s->attrs[middle];
		if (a->base < base || (a->base == base && (a->type < type)))
			low = middle + 1;
		else
			high = middle;
	}
	while (low < s->attr_count && s->attrs[low].base == base && s->attrs[low].type == type &&
	       s->attrs[low].name_hash)
		low++;
	if (low == s->attr_count || s->attrs[low].base != base || s->attrs[low].type != type)
		return -ENOENT;
	for (size_t end = scan_stream_end(s, low); low < end; low++) {
		const struct attr *a = &s->attrs[low];
		for (uint32_t i = 0; i < a->run_count; i++) {
			const struct run *run = &s->runs.runs[a->first_run + i];
			int r = run_list_push_merged(runs, 0, run->lcn, run->length);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* ---- judged ---- */

static uint64_t attr_vcns(const struct scan *s, const struct attr *attr, bool *has_hole)
{
	uint64_t vcns = 0;
	for (uint32_t i = 0; i < attr->run_count; i++) {
		vcns += s->runs.runs[attr->first_run + i].length;
		*has_hole |= s->runs.runs[attr->first_run + i].lcn == RUN_HOLE;
	}
	return vcns;
}

/* The extents follow one another without a gap, their sum is the allocated size, and only what may have holes has them.
 */
static int check_stream(struct scan *s, size_t first, size_t end, struct volume_report *report)
{
	const struct attr *head = &s->attrs[first];
	const char *type = attr_type_name(head->type);
	bool has_hole = false;
	uint64_t vcn = 0;
	for (size_t i = first; i < end; i++) {
		if (s->attrs[i].lowest_vcn != vcn)
			return report_damage(report, "the %s of MFT record %u has a gap or an overlap at VCN %llu",
			                     type, head->base, (unsigned long long)vcn);
		vcn += attr_vcns(s, &s->attrs[i], &has_hole);
	}
	if (end - first > 1 && !(s->kind[head->base] & RECORD_HAS_LIST))
		return report_damage(report, "MFT record %u has an attribute twice", head->base);
	if (head->base == FILE_BadClus) /* one hole as long as the volume, without a flag or a size to match */
		return 0;
	if (vcn != head->allocated_vcns)
		return report_damage(report, "the %s of MFT record %u has %llu clusters, but its size says %llu", type,
		                     head->base, (unsigned long long)vcn, (unsigned long long)head->allocated_vcns);
	if (has_hole && !(head->flags & le16_to_cpu(ATTR_IS_SPARSE | ATTR_COMPRESSION_MASK)))
		return report_damage(report, "the %s of MFT record %u has holes, but is neither sparse nor compressed",
		                     type, head->base);
	return 0;
}

int streams_check(struct scan *s, struct volume_report *report)
{
	for (size_t first = 0, end; first < s->attr_count; first = end) {
		end = scan_stream_end(s, first);
		int r = check_stream(s, first, end, report);
		if (r)
			return r;
	}
	return 0;
}

/* ---- attribute lists ---- */

static int compare_entries(const void *a, const void *b)
{
	const struct list_entry *x = a, *y = b;
	bool name = x->type == le32_to_cpu(AT_FILE_NAME);
	if (x->type != y->type)
		return x->type < y->type ? -1 : 1;
	if (x->name_hash != y->name_hash)
		return x->name_hash < y->name_hash ? -1 : 1;
	if (x->lowest_vcn != y->lowest_vcn)
		return x->lowest_vcn < y->lowest_vcn ? -1 : 1;
	if (name && x->record != y->record)
		return x->record < y->record ? -1 : 1;
	return !name || x->instance == y->instance ? 0 : x->instance < y->instance ? -1 : 1;
}

/* An attribute that is named twice would make up in the count for one that is not named; and of two that begin alike,
 * unless they are names, nobody knows which is meant. 0, -EUCLEAN, -ENOMEM. */
static int check_twins(const struct attr_list *list)
{
	cleanup_free struct list_entry *sorted = malloc((list->count + 1) * sizeof(*sorted));
	if (!sorted)
		return -ENOMEM;
	memcpy(sorted, list->entries, list->count * sizeof(*sorted));
	qsort(sorted, list->count, sizeof(*sorted), compare_entries);
	for (size_t i = 1; i < list->count; i++)
		if (compare_entries(&sorted[i - 1], &sorted[i]) == 0)
			return -EUCLEAN;
	return 0;
}

/* Every entry of a file's list names an attribute that is there, and every attribute has its entry. */
static int check_list(struct scan *s, uint32_t base, uint8_t *record, uint8_t *other, struct volume_report *report)
{
	struct attr_list list = {0};
	ATTR_RECORD *attr;
	uint64_t attributes = s->attr_counts[base] - 1u, loaded = UINT64_MAX;
	int r = scan_read_record(s, base, record);
	if (r == 0)
		r = scan_read_list(s->view, &s->geometry, record, &attr, &list);
	for (size_t i = 0; r == 0 && i < list.count; i++) {
		const struct list_entry *e = &list.entries[i];
		uint8_t *holder = e->record == base ? record : other;
		bool extension = e->record != base;
		if (e->record >= s->record_count || s->sequence[e->record] != e->sequence ||
		    !(s->kind[e->record] & RECORD_USED) || !!(s->kind[e->record] & RECORD_EXTENSION) != extension) {
			r = -EUCLEAN;
			break;
		}
		if (extension && loaded != e->record) {
			r = scan_read_record(s, e->record, other);
			loaded = e->record;
			uint64_t reference = le64_to_cpu(mft_record(other)->base_mft_record);
			if (r == 0 && (MREF(reference) != base || MSEQNO(reference) != s->sequence[base]))
				r = -EUCLEAN;
		}
		if (r == 0 && !record_find_entry(holder, e))
			r = -EUCLEAN;
		if (extension && !(s->kind[e->record] & RECORD_LISTED)) {
			s->kind[e->record] |= RECORD_LISTED;
			attributes += s->attr_counts[e->record];
		}
	}
	if (r == 0)
		r = attributes == list.count ? check_twins(&list) : -EUCLEAN;
	attr_list_free(&list);
	if (r == -EUCLEAN)
		return report_damage(report, "the attribute list of MFT record %u does not match its attributes", base);
	return r;
}

int streams_check_lists(struct scan *s, struct volume_report *report)
{
	cleanup_free uint8_t *buffers = malloc(2ul * s->geometry.record_size);
	if (!buffers)
		return -ENOMEM;
	for (uint64_t i = 0; i < s->record_count; i++) {
		if ((s->kind[i] & (RECORD_USED | RECORD_HAS_LIST | RECORD_EXTENSION)) !=
		    (RECORD_USED | RECORD_HAS_LIST))
			continue;
		int r = check_list(s, (uint32_t)i, buffers, buffers + s->geometry.record_size, report);
		if (r)
			return r;
	}
	for (uint64_t i = 0; i < s->record_count; i++)
		if ((s->kind[i] & RECORD_EXTENSION) && !(s->kind[i] & RECORD_LISTED))
			return report_damage(report, "extension record %llu is in no attribute list",
			                     (unsigned long long)i);
	return 0;
}

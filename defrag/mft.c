/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/mft.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mapdb/cleanup.h"

#define MIRROR_RECORDS_MAX 16u        /* what readers compare with $MFTMirr */
#define RECORDS_MAX        (1u << 26) /* 64 GiB of small records: an image that claims more is sparse, and an attack */

/* Adds one extent of $MFT's runs and makes all records that it holds readable. */
static int add_mft_extent(struct scan *s, const ATTR_RECORD *attr)
{
	uint64_t vcns, known = s->mft.first_vcn ? run_index_clusters(&s->mft) : 0;
	if (!attr->non_resident || (uint64_t)sle64_to_cpu(attr->lowest_vcn) != known)
		return -EUCLEAN;
	int r = mapping_pairs_decode((const uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr),
	                             s->geometry.clusters, &s->mft_runs, &vcns);
	if (r < 0)
		return r;
	for (size_t i = 0; i < s->mft_runs.count; i++)
		if (s->mft_runs.runs[i].lcn == RUN_HOLE)
			return -EUCLEAN;
	run_index_free(&s->mft);
	r = run_index_build(&s->mft, s->mft_runs.runs, s->mft_runs.count);
	if (r < 0)
		return r;
	uint64_t clusters = run_index_clusters(&s->mft);
	if (clusters > s->geometry.clusters) /* the same clusters again and again */
		return -EUCLEAN;
	s->record_count = clusters * s->geometry.cluster_size / s->geometry.record_size;
	return clusters == (uint64_t)sle64_to_cpu(attr->highest_vcn) + 1 ? 0 : -EUCLEAN;
}

/* The extents of $MFT behind the first, wherever they are; each must be readable through those before it. */
static int add_mft_extents(struct scan *s, uint8_t *record0)
{
	struct attr_list list = {0};
	ATTR_RECORD *attr;
	cleanup_free uint8_t *record = malloc(s->geometry.record_size);
	int r = record ? scan_read_list(s->view, &s->geometry, record0, &attr, &list) : -ENOMEM;
	for (size_t i = 0; r == 0 && i < list.count; i++) {
		const struct list_entry *entry = &list.entries[i];
		if (entry->type != le32_to_cpu(AT_DATA) || entry->name_length || !entry->lowest_vcn)
			continue;
		r = scan_read_record(s, entry->record, record);
		if (r == 0)
			attr = record_find_entry(record, entry);
		if (r == 0)
			r = attr ? add_mft_extent(s, attr) : -EUCLEAN;
	}
	attr_list_free(&list);
	return r;
}

/* Each record is there once, so that what a scan collects is no longer than what it reads. 1: yes; 0: no; -ENOMEM. */
static int runs_overlap(const struct run_list *runs)
{
	struct run_list sorted = {0};
	int r = 0;
	for (size_t i = 0; r == 0 && i < runs->count; i++)
		r = run_list_push(&sorted, runs->runs[i].lcn, runs->runs[i].length);
	if (r == 0)
		r = run_list_sort(&sorted);
	if (r == 0)
		r = run_list_merge(&sorted) != RUN_HOLE;
	run_list_free(&sorted);
	return r;
}

/* Behind the bytes in use there may be anything, and another thing in each copy. */
static uint32_t bytes_that_count(const uint8_t *record, uint32_t record_size)
{
	const MFT_RECORD *m = (const MFT_RECORD *)record;
	uint32_t used = le32_to_cpu(m->bytes_in_use);
	return m->magic == magic_FILE && used > sizeof(*m) && used < record_size ? used : record_size;
}

/* Whether the volume's own record, as it is on disk, says so. */
static bool marked_dirty(const uint8_t *first, uint32_t record_size)
{
	cleanup_free uint8_t *record = malloc(record_size);
	if (!record)
		return false;
	memcpy(record, first + (size_t)FILE_Volume * record_size, record_size);
	if (record_unprotect(record, record_size) < 0 || record_check(record, record_size) < 0)
		return false;
	record_for_each(attr, record)
	{
		const VOLUME_INFORMATION *info = (const VOLUME_INFORMATION *)attr_value(attr);
		if (attr->type == AT_VOLUME_INFORMATION && !attr->non_resident &&
		    le32_to_cpu(attr->value_length) >= sizeof(*info))
			return info->flags & VOLUME_IS_DIRTY;
	}
	return false;
}

/* Linux's ntfs3 marks a volume as dirty in $MFT long before it does in the copy: no damage by itself. */
static int report_difference(const uint8_t *first, uint32_t number, uint32_t record_size, struct volume_report *report)
{
	if (number != FILE_Volume || !marked_dirty(first, record_size))
		return report_damage(report, "$MFTMirr does not match $MFT (record %u)", number);
	report_result(report, VOLUME_REFUSED, REMEDY_CHKDSK, "the volume is marked dirty");
	return 1;
}

static int check_mirror(struct scan *s, struct volume_report *report)
{
	const struct geometry *g = &s->geometry;
	uint32_t size = MIRROR_RECORDS_MAX * g->record_size;
	uint32_t mirrored = g->cluster_size > 4 * g->record_size ? g->cluster_size : 4 * g->record_size;
	if (size > mirrored)
		size = mirrored;
	cleanup_free uint8_t *first = malloc(size);
	cleanup_free uint8_t *mirror = malloc(size);
	if (!first || !mirror)
		return -ENOMEM;
	int r = view_read_runs(s->view, &s->mft, g->cluster_size, first, size, 0);
	if (r == 0)
		r = view_read(s->view, mirror, size, g->mirror_lcn * g->cluster_size);
	if (r == -ERANGE)
		return report_damage(report, "$MFT or $MFTMirr is too short");
	if (r < 0)
		return r;
	for (uint32_t off = 0; off < size; off += g->record_size)
		if (memcmp(first + off, mirror + off, bytes_that_count(first + off, g->record_size)) != 0)
			return report_difference(first, off / g->record_size, g->record_size, report);
	return 0;
}

int mft_open(struct scan *s, struct volume_report *report)
{
	const struct geometry *g = &s->geometry;
	cleanup_free uint8_t *record = malloc(g->record_size);
	if (!record)
		return -ENOMEM;
	int r = view_read(s->view, record, g->record_size, g->mft_lcn * g->cluster_size);
	if (r < 0)
		return r == -ERANGE ? report_damage(report, "$MFT lies outside the volume") : r;
	if (record_unprotect(record, g->record_size) < 0 || record_check(record, g->record_size) < 0)
		return report_damage(report, "the first record of $MFT is damaged");
	ATTR_RECORD *data = NULL;
	bool has_list = false;
	record_for_each(attr, record)
	{
		if (attr->type == AT_DATA && !attr->name_length && !data)
			data = attr;
		has_list |= attr->type == AT_ATTRIBUTE_LIST;
	}
	r = data ? add_mft_extent(s, data) : -EUCLEAN;
	if (r == 0 &&
	    (!s->mft_runs.count || s->mft_runs.runs[0].lcn != g->mft_lcn || s->record_count < MIRROR_RECORDS_MAX))
		r = -EUCLEAN;
	uint64_t initialized = r == 0 ? (uint64_t)sle64_to_cpu(data->initialized_size) : 0;
	if (r == 0 && has_list)
		r = add_mft_extents(s, record);
	if (r == 0)
		r = runs_overlap(&s->mft_runs);
	if (r == -EUCLEAN || r == -ERANGE || r == 1)
		return report_damage(report, "the run list of $MFT is damaged");
	if (r < 0)
		return r;
	if (initialized / g->record_size > s->record_count || initialized / g->record_size > UINT32_MAX)
		return report_damage(report, "the size of $MFT does not agree with its run list");
	s->record_count = initialized / g->record_size;
	if (s->record_count > RECORDS_MAX) {
		report_result(report, VOLUME_REFUSED, "", "$MFT has %llu records, more than the %u that are supported",
		              (unsigned long long)s->record_count, RECORDS_MAX);
		return 1;
	}
	return check_mirror(s, report);
}

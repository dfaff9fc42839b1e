/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/ownership.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mapdb/cleanup.h"

#define BITMAP_CHUNK (256u * 1024) /* bytes of $Bitmap looked at together */
#define BOOT_BYTES   8192u         /* of $Boot, on every volume */

static int read_mft_bitmap(struct scan *s)
{
	struct run_list runs = {0};
	struct run_index index = {0};
	int r = scan_stream_runs(s, FILE_MFT, le32_to_cpu(AT_BITMAP), &runs);
	if (r == 0)
		r = run_index_build(&index, runs.runs, runs.count);
	if (r == 0) {
		uint64_t bytes = (s->record_count + 7) / 8;
		s->mft_bitmap = malloc(bytes + 1);
		r = s->mft_bitmap ? view_read_runs(s->view, &index, s->geometry.cluster_size, s->mft_bitmap, bytes, 0)
		                  : -ENOMEM;
	}
	run_index_free(&index);
	run_list_free(&runs);
	return r;
}

int ownership_check_records(struct scan *s, struct volume_report *report)
{
	int r = -ERANGE;
	if (s->mft_bitmap_size >= (s->record_count + 7) / 8)
		r = s->mft_bitmap_resident ? 0 : read_mft_bitmap(s);
	if (r == -ENOENT || r == -ERANGE)
		return report_damage(report, "the bitmap of $MFT is missing or too short");
	if (r < 0)
		return r;
	for (uint64_t i = RESERVED_RECORDS; i < s->record_count; i++) {
		bool marked = s->mft_bitmap[i / 8] >> (i % 8) & 1;
		if (marked != !!(s->kind[i] & RECORD_USED))
			return report_damage(report,
			                     marked ? "MFT record %llu is marked in use, but is not"
			                            : "MFT record %llu is in use, but not marked so",
			                     (unsigned long long)i);
	}
	return 0;
}

/* All clusters that attributes own, sorted and merged. 1 and a report if two overlap. */
static int collect_owned(const struct scan *s, struct run_list *owned, struct volume_report *report)
{
	for (size_t i = 0; i < s->runs.count; i++) {
		if (s->runs.runs[i].lcn == RUN_HOLE)
			continue;
		int r = run_list_push(owned, s->runs.runs[i].lcn, s->runs.runs[i].length);
		if (r < 0)
			return r;
	}
	int r = run_list_sort(owned);
	if (r < 0)
		return r;
	uint64_t twice = run_list_merge(owned);
	if (twice != RUN_HOLE)
		return report_damage(report, "cluster %llu belongs to two files", (unsigned long long)twice);
	return 0;
}

/* Walks along the owned runs and the marked ones; what is marked and not owned is lost. */
struct comparison {
	const struct run_list *owned;
	size_t next;       /* owned run not yet passed */
	uint64_t position; /* clusters below are done */
	struct scan *scan;
};

static int pass_free(struct comparison *c, uint64_t lcn, uint64_t length, struct volume_report *report)
{
	if (c->next < c->owned->count && c->owned->runs[c->next].lcn < lcn + length)
		return report_damage(
		        report, "cluster %llu is in use, but free by $Bitmap",
		        (unsigned long long)(c->owned->runs[c->next].lcn > lcn ? c->owned->runs[c->next].lcn : lcn));
	c->scan->clusters_free += length;
	return run_list_push_merged(&c->scan->free, 0, lcn, length);
}

static int pass_marked(struct comparison *c, uint64_t lcn, uint64_t length)
{
	uint64_t end = lcn + length;
	while (lcn < end) {
		const struct run *run = c->next < c->owned->count ? &c->owned->runs[c->next] : NULL;
		uint64_t stop = run && run->lcn < end ? run->lcn : end;
		if (stop > lcn) {
			int r = run_list_push_merged(&c->scan->lost, 0, lcn, stop - lcn);
			if (r < 0)
				return r;
			lcn = stop;
		}
		if (run && lcn >= run->lcn && lcn < end) {
			uint64_t run_end = run->lcn + run->length;
			lcn = run_end < end ? run_end : end;
			if (lcn == run_end)
				c->next++;
		}
	}
	return 0;
}

/* The first bit in [from, to) that differs from value; whole words at once. */
static uint64_t find_change(const uint8_t *bits, uint64_t from, uint64_t to, bool value)
{
	const uint64_t same = value ? UINT64_MAX : 0;
	while (from < to) {
		uint64_t word;
		if (from % 64 == 0 && to - from >= 64) {
			memcpy(&word, bits + from / 8, sizeof(word));
			if (word == same) {
				from += 64;
				continue;
			}
		}
		if ((bits[from / 8] >> (from % 8) & 1) != value)
			break;
		from++;
	}
	return from;
}

static int compare_chunk(struct comparison *c, const uint8_t *bits, uint64_t first, uint64_t count,
                         struct volume_report *report)
{
	for (uint64_t from = 0, to; from < count; from = to) {
		bool marked = bits[from / 8] >> (from % 8) & 1;
		to = find_change(bits, from, count, marked);
		int r = marked ? pass_marked(c, first + from, to - from)
		               : pass_free(c, first + from, to - from, report);
		if (r)
			return r;
	}
	return 0;
}

/* Clusters that the volume does not have are marked, as far as $Bitmap goes. */
static int check_tail(const uint8_t *bits, uint64_t from, uint64_t to, struct volume_report *report)
{
	if (find_change(bits, from, to, true) != to)
		return report_damage(report, "$Bitmap marks clusters past the end of the volume as free");
	return 0;
}

static int compare_bitmap(struct scan *s, const struct run_list *owned, const struct run_index *bitmap,
                          struct volume_report *report)
{
	struct comparison c = {.owned = owned, .scan = s};
	cleanup_free uint8_t *bits = malloc(BITMAP_CHUNK);
	if (!bits)
		return -ENOMEM;
	uint64_t clusters = s->geometry.clusters, bytes = (clusters + 63) / 64 * 8;
	if (s->bitmap_size < (clusters + 7) / 8)
		return -ERANGE;
	if (bytes > s->bitmap_size) /* Windows rounds it up to 8 bytes, others may not */
		bytes = s->bitmap_size;
	for (uint64_t off = 0; off < bytes; off += BITMAP_CHUNK) {
		uint64_t size = bytes - off < BITMAP_CHUNK ? bytes - off : BITMAP_CHUNK, first = off * 8;
		uint64_t count = clusters - first < size * 8 ? clusters - first : size * 8;
		int r = view_read_runs(s->view, bitmap, s->geometry.cluster_size, bits, size, off);
		if (r == 0)
			r = compare_chunk(&c, bits, first, count, report);
		if (r == 0 && count < size * 8)
			r = check_tail(bits, count, size * 8, report);
		if (r)
			return r;
	}
	return 0;
}

/* The boot sector and what it loads are found by their place: nothing else may be there, or it could be moved. */
static int check_boot(const struct scan *s, struct volume_report *report)
{
	struct run_list runs = {0};
	int r = scan_stream_runs(s, FILE_Boot, le32_to_cpu(AT_DATA), &runs);
	bool right = r == 0 && runs.count && runs.runs[0].lcn == 0 &&
	             runs.runs[0].length >= (BOOT_BYTES + s->geometry.cluster_size - 1) / s->geometry.cluster_size;
	run_list_free(&runs);
	if (r < 0 && r != -ENOENT)
		return r;
	return right ? 0 : report_damage(report, "$Boot is not where the volume begins");
}

int ownership_check_clusters(struct scan *s, struct volume_report *report)
{
	struct run_list owned = {0}, runs = {0};
	struct run_index bitmap = {0};
	int r = collect_owned(s, &owned, report);
	if (r == 0)
		r = check_boot(s, report);
	if (r == 0)
		r = scan_stream_runs(s, FILE_Bitmap, le32_to_cpu(AT_DATA), &runs);
	if (r == 0)
		r = run_index_build(&bitmap, runs.runs, runs.count);
	if (r == 0)
		r = compare_bitmap(s, &owned, &bitmap, report);
	if (r == -ENOENT || r == -ERANGE)
		r = report_damage(report, "$Bitmap is missing or too short");
	run_index_free(&bitmap);
	run_list_free(&runs);
	run_list_free(&owned);
	return r;
}

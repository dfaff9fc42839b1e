/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/verify.h"

#include <errno.h>
#include <string.h>

#include "defrag/layout.h"
#include "defrag/preflight.h"
#include "mapdb/cleanup.h"

#define SAMPLE_BYTES   (64u * 1024) /* of a cluster, at most */
#define SAMPLE_STREAMS 256u         /* moved streams whose data is looked at in any case */

/* ---- the actual mapping ---- */

/* Looks up places in a map, mostly in the extent of the one before. */
struct place {
	const struct view *view;
	struct extent extent; /* where the last lookup was; length 0: none yet */
};

static struct extent place_lookup(struct place *place, uint64_t off, uint64_t length)
{
	const struct extent *e = &place->extent;
	if (off < e->guest_off || off - e->guest_off >= e->length)
		image_map_lookup(place->view->map, off, UINT64_MAX, &place->extent);
	uint64_t skip = off - e->guest_off, rest = e->length - skip;
	return (struct extent){
	        .guest_off = off, .host_off = e->host_off + skip, .length = rest < length ? rest : length};
}

/* Walks over the runs of a stream in VCN order, across its extents. */
struct cursor {
	const struct scan *scan;
	struct place *place;
	size_t attr, end;
	uint32_t run;
	uint64_t done; /* clusters of the run that were passed */
};

static bool cursor_get(struct cursor *c, struct run *piece)
{
	while (c->attr < c->end && c->run == c->scan->attrs[c->attr].run_count) {
		c->attr++;
		c->run = 0;
	}
	if (c->attr == c->end)
		return false;
	const struct run *run = &c->scan->runs.runs[c->scan->attrs[c->attr].first_run + c->run];
	piece->lcn = run->lcn == RUN_HOLE ? RUN_HOLE : run->lcn + c->done;
	piece->length = run->length - c->done;
	return true;
}

static void cursor_skip(struct cursor *c, uint64_t clusters)
{
	c->done += clusters;
	if (c->done == c->scan->runs.runs[c->scan->attrs[c->attr].first_run + c->run].length) {
		c->run++;
		c->done = 0;
	}
}

/* Both maps lead from these two places to the same host bytes. */
static bool same_host_bytes(struct place *before, uint64_t old_lcn, struct place *after, uint64_t new_lcn,
                            uint64_t clusters, uint32_t cluster_size)
{
	uint64_t old_off = before->view->off + old_lcn * cluster_size;
	uint64_t new_off = after->view->off + new_lcn * cluster_size;
	for (uint64_t length = clusters * cluster_size; length;) {
		struct extent x = place_lookup(before, old_off, length), y = place_lookup(after, new_off, length);
		uint64_t here = x.length < y.length ? x.length : y.length;
		if (x.host_off != y.host_off)
			return false;
		old_off += here;
		new_off += here;
		length -= here;
	}
	return true;
}

/* in_place: not even the guest sees it elsewhere. */
static bool same_mapping(struct cursor *before, struct cursor *after, bool in_place)
{
	struct run x, y;
	for (;;) {
		bool more = cursor_get(before, &x);
		if (more != cursor_get(after, &y))
			return false;
		if (!more)
			return true;
		uint64_t here = x.length < y.length ? x.length : y.length;
		if ((x.lcn == RUN_HOLE) != (y.lcn == RUN_HOLE) || (in_place && x.lcn != y.lcn))
			return false;
		if (x.lcn != RUN_HOLE && !same_host_bytes(before->place, x.lcn, after->place, y.lcn, here,
		                                          before->scan->geometry.cluster_size))
			return false;
		cursor_skip(before, here);
		cursor_skip(after, here);
	}
}

/* ---- a look at the data ----
 *
 * The comparison of mappings is the proof; this is a second net under it, which shares nothing with it but the scans.
 */

struct sampler {
	struct view *before, *after;
	uint64_t moved, step; /* moved streams so far; one in step is looked at */
	uint8_t *buffers;     /* two of SAMPLE_BYTES */
};

/* The first and the last cluster of a stream; false if it has none. */
static bool stream_ends(const struct scan *s, size_t first, size_t end, uint64_t ends[2])
{
	ends[0] = RUN_HOLE;
	for (size_t i = first; i < end; i++) {
		const struct run *runs = &s->runs.runs[s->attrs[i].first_run];
		for (uint32_t k = 0; k < s->attrs[i].run_count; k++) {
			if (runs[k].lcn == RUN_HOLE)
				continue;
			if (ends[0] == RUN_HOLE)
				ends[0] = runs[k].lcn;
			ends[1] = runs[k].lcn + runs[k].length - 1;
		}
	}
	return ends[0] != RUN_HOLE;
}

/* What a pass rewrites differs from before, as it should. */
static bool is_rewritten(const struct attr *attr)
{
	return attr->base == FILE_MFT || attr->base == FILE_MFTMirr || attr->base == FILE_Bitmap ||
	       attr->type == le32_to_cpu(AT_ATTRIBUTE_LIST);
}

/* 1: the same; 0: not; -errno. */
static int sample_stream(struct sampler *sampler, const struct cursor *before, const struct cursor *after)
{
	uint32_t cluster_size = before->scan->geometry.cluster_size;
	uint32_t size = cluster_size < SAMPLE_BYTES ? cluster_size : SAMPLE_BYTES;
	uint64_t old_ends[2], new_ends[2];
	if (is_rewritten(&before->scan->attrs[before->attr]) ||
	    !stream_ends(before->scan, before->attr, before->end, old_ends) ||
	    !stream_ends(after->scan, after->attr, after->end, new_ends) ||
	    (!sampler->after->gone && !memcmp(old_ends, new_ends, sizeof(old_ends))) ||
	    sampler->moved++ % sampler->step)
		return 1;
	for (int i = 0; i < 2; i++) {
		int r = view_read(sampler->before, sampler->buffers, size, old_ends[i] * cluster_size);
		if (r == 0)
			r = view_read(sampler->after, sampler->buffers + SAMPLE_BYTES, size,
			              new_ends[i] * cluster_size);
		if (r < 0)
			return r;
		if (memcmp(sampler->buffers, sampler->buffers + SAMPLE_BYTES, size) != 0)
			return 0;
	}
	return 1;
}

/* ---- all attributes ---- */

static bool same_stream(const struct attr *x, const struct attr *y)
{
	return x->base == y->base && x->type == y->type && x->name_hash == y->name_hash && x->flags == y->flags;
}

/* Something may know it by its place. */
static bool must_stay(const struct scan *s, size_t first, size_t end)
{
	enum plan_kind kind = layout_kind(s, &s->attrs[first]);
	return kind == PLAN_PINNED || (kind == PLAN_LEFT && scan_stream_pieces(s, first, end) == 1);
}

static int compare_stream(struct cursor before, struct cursor after, struct sampler *sampler,
                          struct volume_report *report)
{
	const struct attr *attr = &before.scan->attrs[before.attr];
	int r = sample_stream(sampler, &before, &after);
	bool in_place = must_stay(before.scan, before.attr, before.end);
	if (r == 0 || (r == 1 && !same_mapping(&before, &after, in_place)))
		return unproven(report, "the %s of MFT record %u would map to other bytes, or may not move",
		                attr_type_name(attr->type), attr->base);
	return r < 0 ? r : 0;
}

static int compare_mappings(const struct scan *before, const struct scan *after, struct sampler *sampler,
                            struct volume_report *report)
{
	struct place old_place = {.view = before->view}, new_place = {.view = after->view};
	size_t k = 0, end, k_end;
	for (size_t i = 0; i < before->attr_count; i = end, k = k_end) {
		const struct attr *attr = &before->attrs[i];
		bool present = k < after->attr_count && same_stream(attr, &after->attrs[k]);
		end = scan_stream_end(before, i);
		k_end = k;
		/* An attribute list may go; its contents are checked by the scan. */
		if (!present && attr->type == le32_to_cpu(AT_ATTRIBUTE_LIST))
			continue;
		if (!present)
			return unproven(report, "the result has lost the %s of MFT record %u",
			                attr_type_name(attr->type), attr->base);
		k_end = scan_stream_end(after, k);
		struct cursor x = {.scan = before, .place = &old_place, .attr = i, .end = end};
		struct cursor y = {.scan = after, .place = &new_place, .attr = k, .end = k_end};
		int r = compare_stream(x, y, sampler, report);
		if (r)
			return r;
	}
	if (k != after->attr_count)
		return unproven(report, "the result has an attribute too many");
	return 0;
}

/* Something may know them by their place; and what a pass has left, or a list of attributes that has gone, is free and
 * not one of them. */
static int compare_lost(const struct scan *before, const struct scan *after, struct volume_report *report)
{
	struct place old_place = {.view = before->view}, new_place = {.view = after->view};
	bool same = before->lost.count == after->lost.count;
	for (size_t i = 0; same && i < before->lost.count; i++) {
		const struct run *x = &before->lost.runs[i], *y = &after->lost.runs[i];
		same = x->lcn == y->lcn && x->length == y->length &&
		       same_host_bytes(&old_place, x->lcn, &new_place, y->lcn, x->length,
		                       before->geometry.cluster_size);
	}
	return same ? 0 : unproven(report, "the clusters that are in use and nobody's would not be the same");
}

/* ---- everything else about the files ---- */

static int compare_files(const struct scan *before, const struct scan *after, uint64_t records_freed,
                         struct volume_report *report)
{
	const uint8_t lasting = RECORD_USED | RECORD_EXTENSION | RECORD_DIRECTORY;
	if (before->record_count != after->record_count || before->files != after->files ||
	    before->records_used != after->records_used + records_freed)
		return unproven(report, "the result has another number of files or records");
	for (uint64_t i = 0; i < before->record_count; i++) {
		bool freed = before->kind[i] & RECORD_EXTENSION && !after->kind[i];
		if (!freed && ((before->kind[i] ^ after->kind[i]) & lasting))
			return unproven(report, "MFT record %llu would change its kind", (unsigned long long)i);
		if (before->fingerprint[i] != after->fingerprint[i])
			return unproven(report, "MFT record %llu would change in more than its place",
			                (unsigned long long)i);
	}
	return 0;
}

/* ---- only metadata changes ---- */

static int add_stream(const struct scan *s, uint32_t base, uint32_t type, struct run_list *runs)
{
	struct run_list found = {0};
	int r = scan_stream_runs(s, base, type, &found);
	for (size_t i = 0; r == 0 && i < found.count; i++)
		r = run_list_push(runs, found.runs[i].lcn, found.runs[i].length);
	run_list_free(&found);
	return r == -ENOENT ? 0 : r;
}

/* The clusters that a pass may write to: $MFT, its bitmap and mirror, $Bitmap, attribute lists. Sorted. */
static int changeable_clusters(const struct scan *s, struct run_list *runs)
{
	const struct geometry *g = &s->geometry;
	uint64_t mirror = (4ul * g->record_size + g->cluster_size - 1) / g->cluster_size;
	int r = run_list_push(runs, g->mirror_lcn, mirror);
	if (r == 0)
		r = add_stream(s, FILE_MFT, le32_to_cpu(AT_DATA), runs);
	if (r == 0)
		r = add_stream(s, FILE_MFT, le32_to_cpu(AT_BITMAP), runs);
	if (r == 0)
		r = add_stream(s, FILE_Bitmap, le32_to_cpu(AT_DATA), runs);
	for (size_t i = 0; r == 0 && i < s->attr_count; i++)
		if (s->attrs[i].type == le32_to_cpu(AT_ATTRIBUTE_LIST))
			r = add_stream(s, s->attrs[i].base, s->attrs[i].type, runs);
	return r < 0 ? r : run_list_sort(runs);
}

static bool inside(const struct run_list *runs, uint64_t first, uint64_t last)
{
	size_t low = 0, high = runs->count;
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		if (runs->runs[middle].lcn <= first)
			low = middle;
		else
			high = middle;
	}
	const struct run *run = &runs->runs[low];
	return runs->count && first >= run->lcn && last < run->lcn + run->length;
}

static bool entry_allowed(const struct scan *s, const struct host_index *index, const struct run_list *allowed,
                          const struct redo_entry *entry)
{
	uint64_t off = entry->host_off, length = entry->length;
	while (length) {
		struct extent extent;
		if (!host_index_lookup(index, off, &extent) || extent.guest_off < s->view->off)
			return false;
		uint64_t at = extent.guest_off - s->view->off, here = extent.length < length ? extent.length : length;
		if (!inside(allowed, at / s->geometry.cluster_size, (at + here - 1) / s->geometry.cluster_size))
			return false;
		off += here;
		length -= here;
	}
	return true;
}

static int check_changes(const struct scan *s, const struct changes *changes, struct volume_report *report)
{
	struct run_list allowed = {0};
	struct host_index *index = NULL;
	struct redo_entry entry;
	int r = changeable_clusters(s, &allowed);
	if (r == 0)
		r = host_index_new((struct image_map *)s->view->map, &index);
	for (size_t i = 0; r == 0 && i < changes->count; i++) {
		const struct packed_blob *blob = &changes->blobs[i];
		size_t pos = 0;
		while (r == 0 && (r = redo_next(blob->data, blob->size, &pos, &entry)) == 1)
			r = entry_allowed(s, index, &allowed, &entry)
			            ? 0
			            : unproven(report, "a change would touch something that is not metadata");
	}
	host_index_free(index);
	run_list_free(&allowed);
	return r;
}

/* ---- all of it ---- */

static int make_overlay(const struct changes *changes, struct redo_overlay **out)
{
	struct redo_overlay *overlay;
	int r = redo_overlay_new(&overlay);
	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < changes->count; i++)
		r = redo_overlay_add(overlay, changes->blobs[i].data, changes->blobs[i].size);
	if (r == 0)
		r = redo_overlay_seal(overlay);
	if (r < 0)
		redo_overlay_free(overlay);
	else
		*out = overlay;
	return r;
}

static int scan_again(struct view *view, const struct scan *before, struct volume_report *report,
                      scan_progress progress, void *context, struct scan **out)
{
	struct volume_report finding = {.result = VOLUME_DONE};
	struct geometry geometry;
	int r = boot_read(view, &geometry, &finding);
	if (r == 0 && finding.result == VOLUME_DONE &&
	    (geometry.mft_lcn != before->geometry.mft_lcn || geometry.mirror_lcn != before->geometry.mirror_lcn ||
	     geometry.clusters != before->geometry.clusters))
		return unproven(report, "the boot sector would change");
	if (r == 0 && finding.result == VOLUME_DONE)
		r = scan_volume(view, &geometry, &finding, progress, context, out);
	if (r == 1 || (r == 0 && finding.result != VOLUME_DONE))
		return unproven(report, "the result is inconsistent: %.400s", finding.cause);
	return r;
}

int verify_volume(const struct scan *before, const struct image_map *new_map, const struct changes *changes,
                  const struct verify_expectation *expected, struct volume_report *report, scan_progress progress,
                  void *context, struct scan **out)
{
	struct redo_overlay *overlay = NULL;
	struct scan *after = NULL;
	cleanup_free uint8_t *buffers = malloc(2ul * SAMPLE_BYTES);
	int r = buffers ? check_changes(before, changes, report) : -ENOMEM;
	if (r == 0)
		r = make_overlay(changes, &overlay);
	if (r == -EUCLEAN)
		r = unproven(report, "changes overlap");
	struct view view = *before->view;
	view.map = new_map;
	view.changes = overlay;
	view.gone = expected->gone;
	view.gone_count = expected->gone_count;
	struct sampler sampler = {.before = before->view, .after = &view, .step = 1, .buffers = buffers};
	if (!expected->all_data)
		sampler.step += expected->streams_moved / SAMPLE_STREAMS;
	if (r == 0)
		r = scan_again(&view, before, report, progress, context, &after);
	if (r == 0)
		r = compare_mappings(before, after, &sampler, report);
	if (r == 0)
		r = compare_lost(before, after, report);
	if (r == 0)
		r = compare_files(before, after, expected->records_freed, report);
	int mountable = r == 0 ? preflight_can_mount(&view) : 0;
	if (view.error < 0 || mountable == -ENOMEM)
		r = view.error < 0 ? view.error : mountable; /* it says nothing about the result */
	else if (mountable < 0)
		r = unproven(report, "libntfs-3g could not open the result");
	redo_overlay_free(overlay);
	if (after)
		after->view = NULL; /* it was looked at through something that ends here */
	if (r)
		scan_free(after);
	else
		*out = after;
	return r;
}

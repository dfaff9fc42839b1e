/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mapdb/image_discard.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <time.h>

#include "mapdb/cleanup.h"
#include "mapdb/host_allocation.h"
#include "mapdb/host_space.h"
#include "mapdb/image_internal.h"

/* At a time: a host that discards at once what is given back should not keep somebody waiting who wants the image. */
#define PUNCH_MAX (UINT64_C(64) << 20)

struct discard {
	struct image *image;
	const struct guest_range *ranges;
	size_t count;
	const struct discard_options *options;
	struct host_allocation allocation;
	uint64_t host_end; /* of the data file */
	uint64_t live_end; /* live host bytes are passed up to here */
	uint64_t worth;    /* allocated bytes that a dry run would have punched */
	bool punched;      /* anything at all */
};

int image_undo_kept(const struct image *image, bool *kept)
{
	*kept = false;
	return image->db ? map_db_undo_valid(image->db, image->data_fd, kept) : 0;
}

/* ---- giving back ---- */

/* What undo would put in place of what it finds free must not be a hole: before there is one, it is gone for good. */
static int forget_undo(struct image *image)
{
	if (!image->state.undo_recorded)
		return 0;
	int rc = map_db_drop_undo(image->db);
	if (rc == 0)
		image->state.undo_recorded = false;
	return rc;
}

static int punch(struct discard *discard, uint64_t host_off, uint64_t length)
{
	struct image *image = discard->image;

	image_keep(image);
	if (image_wanted(image))
		return image_still_ours(image) ? -EAGAIN : -EBUSY;
	int rc = forget_undo(image);
	if (rc == 0)
		rc = image->io->fallocate(image->io, image->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		                          host_off, length);
	discard->punched |= rc == 0;
	return rc;
}

/* [from, to) has no live bytes: whole blocks of it that take up space are given back. */
static int give_back(struct discard *discard, uint64_t from, uint64_t to)
{
	const struct discard_options *options = discard->options;
	uint64_t start, end;
	int rc = 0;

	from = (from + HOST_BLOCK - 1) / HOST_BLOCK * HOST_BLOCK;
	to = to / HOST_BLOCK * HOST_BLOCK;
	while (rc == 0 && from < to && host_allocation_next(&discard->allocation, from, &start, &end) && start < to) {
		uint64_t stop = options->dry_run ? end : start + PUNCH_MAX;

		stop = stop < to ? stop : to;
		if (options->stop && options->stop(options->context, start, discard->host_end))
			return -ECANCELED;
		if (options->dry_run)
			discard->worth += stop - start;
		else
			rc = punch(discard, start, stop - start);
		from = stop;
	}
	return rc;
}

/* ---- what is live ---- */

static int pass_live(struct discard *discard, uint64_t host_off, uint64_t length)
{
	int rc = give_back(discard, discard->live_end, host_off);

	discard->live_end = host_off + length;
	return rc;
}

/* Live is what of it no range covers. */
static int pass_extent(struct discard *discard, const struct extent *extent)
{
	uint64_t off = extent->guest_off, end = off + extent->length;
	int rc = 0;

	for (size_t i = guest_range_find(discard->ranges, discard->count, off); rc == 0 && off < end; i++) {
		uint64_t stop = i < discard->count ? discard->ranges[i].guest_off : end;

		stop = stop < end ? stop : end;
		if (stop > off)
			rc = pass_live(discard, extent->host_off + (off - extent->guest_off), stop - off);
		off = i < discard->count ? discard->ranges[i].guest_off + discard->ranges[i].length : end;
	}
	return rc;
}

/* In the order of the data file, so that free parts of several extents in one block are seen together, and what no
 * extent names goes with them. */
static int pass_all(struct discard *discard, const struct host_index *index)
{
	struct extent extent;
	int rc = 0;

	for (uint64_t host_off = 0; rc == 0 && host_off < discard->host_end; host_off += extent.length) {
		if (host_index_lookup(index, host_off, &extent))
			rc = pass_extent(discard, &extent);
	}
	return rc < 0 ? rc : give_back(discard, discard->live_end, discard->host_end);
}

/* ---- around it ---- */

static bool ranges_are_sane(const struct image_map *map, const struct guest_range *ranges, size_t count)
{
	uint64_t end = 0, size = image_map_size(map);

	for (size_t i = 0; i < count; i++) {
		if (ranges[i].guest_off < end || ranges[i].guest_off > size || ranges[i].length == 0 ||
		    ranges[i].length > size - ranges[i].guest_off)
			return false;
		end = ranges[i].guest_off + ranges[i].length;
	}
	return true;
}

static int look_at_data(const struct discard *discard, uint64_t *allocated, uint64_t *length)
{
	struct stat status;

	if (fstat(discard->image->data_fd, &status) < 0)
		return -errno;
	*allocated = (uint64_t)status.st_blocks * 512;
	*length = (uint64_t)status.st_size;
	return 0;
}

static int put_history(const struct discard *discard, const struct timespec *started)
{
	struct image *image = discard->image;
	struct timespec now;

	if (!image->db)
		return 0;
	clock_gettime(CLOCK_REALTIME, &now);
	const struct run_record run = {
	        .operation = "discard",
	        .options = discard->options->text ? discard->options->text : "",
	        .started_unix_s = started->tv_sec,
	        .duration_ms = (now.tv_sec - started->tv_sec) * 1000 + (now.tv_nsec - started->tv_nsec) / 1000000,
	        .extents_before = image_map_count(image->map),
	        .extents_after = image_map_count(image->map),
	};
	int rc = map_db_begin(image->db);
	return rc < 0 ? rc : map_db_end(image->db, map_db_put_run(image->db, &run));
}

static int discard_all(struct discard *discard, struct discard_report *report)
{
	struct host_index *index = NULL;
	int rc = look_at_data(discard, &report->allocated_before, &discard->host_end);

	report->allocated_after = report->allocated_before;
	if (rc == 0)
		rc = host_index_new(discard->image->map, &index);
	if (rc < 0)
		return rc;
	host_allocation_start(&discard->allocation, discard->image->data_fd);
	rc = pass_all(discard, index);
	host_index_free(index);
	report->finished = rc == 0;
	return rc;
}

int image_discard(struct image *image, const struct guest_range *ranges, size_t count,
                  const struct discard_options *options, struct discard_report *report)
{
	struct timespec started;
	uint64_t length;
	cleanup_free struct discard *discard = calloc(1, sizeof *discard);

	assert(image->access == IMAGE_EXCLUSIVE);
	clock_gettime(CLOCK_REALTIME, &started);
	*report = (struct discard_report){0};
	if (!discard)
		return -ENOMEM;
	if (!ranges_are_sane(image->map, ranges, count))
		return -EINVAL;
	if (image->read_only && !options->dry_run)
		return -EROFS;
	if (image_is_on_network(image))
		return -EOPNOTSUPP;
	*discard = (struct discard){.image = image, .ranges = ranges, .count = count, .options = options};
	for (size_t i = 0; i < count; i++)
		report->bytes_free += ranges[i].length;
	int rc = discard_all(discard, report);
	if (options->dry_run)
		report->allocated_after -= discard->worth < report->allocated_after ? discard->worth : 0;
	if (!discard->punched)
		return rc;
	int end_rc = image->io->fsync(image->io, image->data_fd);
	if (end_rc == 0)
		end_rc = look_at_data(discard, &report->allocated_after, &length);
	if (end_rc == 0)
		end_rc = put_history(discard, &started);
	return rc < 0 ? rc : end_rc;
}

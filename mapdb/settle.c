/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * settle: the pass and its steps. What a step copies is in settle_batch.c.
 */
#include "mapdb/settle.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>

#include "mapdb/cleanup.h"
#include "mapdb/settle_internal.h"

#define BATCH_MIN     (UINT64_C(1) << 20)
/* Of the rate: syncs and commits are what the guest feels most, so not more of them than that. */
#define BATCH_SECONDS 3
#define ROOM_KEPT     (UINT64_C(16) << 20) /* of the host's free space: for the guest, and the database */
#define PIECE_ALIGN   4096u

int settle_new(const struct io *io, int data_fd, struct map_db *db, const struct settle_hooks *hooks,
               const struct settle_options *options, struct settle **out)
{
	struct settle *settle = calloc(1, sizeof *settle);
	int rc = 0;

	if (!settle)
		return -ENOMEM;
	*settle = (struct settle){.io = io, .data_fd = data_fd, .hooks = *hooks, .options = *options};
	settle->text = strdup(options->text ? options->text : "");
	settle->buffer = aligned_alloc(PIECE_ALIGN, SETTLE_PIECE);
	if (!settle->text || !settle->buffer)
		rc = -ENOMEM;
	if (rc == 0 && db)
		rc = map_db_unfinished_settle(db, &settle->record, &settle->run);
	if (rc < 0) {
		settle_free(settle);
		return rc;
	}
	settle->run.operation = "settle";
	settle->run.options = settle->text;
	*out = settle;
	return 0;
}

static void forget_map(struct settle *settle)
{
	settle_plan_release(&settle->plan);
	host_index_free(settle->index);
	settle->index = NULL;
	image_map_unref(settle->map);
	settle->map = NULL;
}

void settle_free(struct settle *settle)
{
	if (!settle)
		return;
	forget_map(settle);
	free(settle->buffer);
	free(settle->text);
	free(settle);
}

static int data_length(const struct settle *settle, uint64_t *length)
{
	struct stat status;

	if (fstat(settle->data_fd, &status) < 0)
		return -errno;
	*length = (uint64_t)status.st_size;
	return 0;
}

/* Plans, and makes the data file long enough for it. */
static int plan_within(struct settle *settle, uint64_t host_limit)
{
	const struct settle_plan_options options = {
	        .threshold = settle->options.threshold,
	        .host_limit = host_limit,
	        .resume = settle->record.run != 0 && !settle->record.finished,
	        .plane_base = settle->record.plane_base,
	        .identity = settle->options.identity,
	};
	uint64_t length = 0;

	settle_plan_release(&settle->plan);
	int rc = settle_plan_make(settle->map, settle->index, &options, &settle->plan);
	if (rc == 0)
		rc = data_length(settle, &length);
	if (rc == 0 && settle->plan.host_end > length)
		rc = settle->io->ftruncate(settle->io, settle->data_fd, settle->plan.host_end);
	return rc;
}

static int make_plan(struct settle *settle, struct image_map *map)
{
	uint64_t length = 0;

	forget_map(settle);
	settle->map = image_map_ref(map);
	settle->next = 0;
	settle->next_done = settle->placed = 0;
	int rc = host_index_new(map, &settle->index);
	if (rc == 0)
		rc = plan_within(settle, 0);
	if (rc != -EFBIG)
		return rc;
	/* The host's files cannot be that long: within what is there, some planes may have room. */
	rc = data_length(settle, &length);
	if (rc == 0)
		rc = plan_within(settle, length ? length : 1);
	return rc == 0 && settle->plan.count == 0 ? -EFBIG : rc;
}

static bool plan_done(const struct settle *settle)
{
	return settle->next == settle->plan.count;
}

/* How much data the next batch may hold. */
static int batch_bytes(const struct settle *settle, const struct settle_limits *limits, uint64_t *bytes)
{
	struct statvfs status;

	*bytes = settle->options.batch_bytes ? settle->options.batch_bytes : SETTLE_BATCH_DEFAULT;
	if (limits->rate && *bytes > BATCH_MIN && *bytes / BATCH_SECONDS > limits->rate)
		*bytes = limits->rate > BATCH_MIN ? limits->rate * BATCH_SECONDS : BATCH_MIN;
	if (fstatvfs(settle->data_fd, &status) < 0)
		return -errno;
	uint64_t room = (uint64_t)status.f_bavail * status.f_frsize;
	if (status.f_blocks == 0) /* unlimited */
		return 0;
	room = room > ROOM_KEPT ? (room - ROOM_KEPT) / 2 : 0;
	if (*bytes > room)
		*bytes = room;
	return *bytes < BATCH_MIN && room < BATCH_MIN ? -ENOSPC : 0;
}

/* What a commit and everything after it need, so that they cannot fail for want of memory. */
struct change {
	struct image_map *map;
	struct host_index *index;
};

static void cleanup_change(struct change *change)
{
	host_index_free(change->index);
	image_map_unref(change->map);
}

static int commit(struct settle *settle, const struct image_map *map, uint64_t data_bytes, bool finished,
                  int64_t start_ns)
{
	int64_t spent_ms = (settle_now_ns() - start_ns) / 1000000;
	struct run_record run = settle->run;
	struct settle_record record = settle->record;

	if (record.run == 0) {
		run.started_unix_s = time(NULL) - spent_ms / 1000;
		run.extents_before = image_map_count(settle->map);
	}
	run.extents_after = image_map_count(map);
	run.duration_ms += spent_ms;
	if (!finished)
		record.plane_base = settle->plan.plane_base;
	record.bytes_moved += data_bytes;
	record.finished = finished;
	int rc = settle->hooks.commit(settle->hooks.context, settle->map, map, &run, &record);
	if (rc == 0) {
		settle->run = run;
		settle->record = record;
	}
	return rc;
}

/* The batch is in its new places. */
static void advance(struct settle *settle, const struct batch *batch)
{
	uint64_t bytes = batch->copied;

	settle->placed += bytes;
	while (bytes > 0) {
		uint64_t left = settle->plan.moves[settle->next].length - settle->next_done;

		if (bytes < left) {
			settle->next_done += bytes;
			return;
		}
		bytes -= left;
		settle->next++;
		settle->next_done = 0;
	}
}

static void give_back(struct settle *settle, const struct extent *ranges, size_t count)
{
	const struct host_puncher puncher = settle_puncher(settle);

	(void)host_space_release(&puncher, settle->index, ranges, count);
}

/* The batch stays where it was: writes go there only again, and the copies are given back. */
static void abandon(struct settle *settle, const struct batch *batch)
{
	settle->hooks.unmirror(settle->hooks.context);
	give_back(settle, batch->windows, batch->count);
	give_back(settle, batch->rest, batch->rest_count);
}

/* The new map is the one that counts: nothing of this can fail. */
static void use_new_map(struct settle *settle, const struct batch *batch, struct change *change)
{
	settle->hooks.replace(settle->hooks.context, change->map);
	advance(settle, batch);
	cleanup_change(&(struct change){.map = settle->map, .index = settle->index});
	settle->map = steal_pointer(&change->map);
	settle->index = steal_pointer(&change->index);
	give_back(settle, batch->sources.extents, batch->sources.count);
	give_back(settle, batch->rest, batch->rest_count);
}

/* From the copies in the page cache to a new map on disk. */
static int sync_and_commit(struct settle *settle, const struct batch *batch, struct change *change, int64_t start_ns)
{
	int rc = settle->io->fdatasync(settle->io, settle->data_fd);

	if (rc == 0)
		rc = image_map_relocate(settle->map, batch->windows, batch->count, &change->map);
	if (rc == 0)
		rc = host_index_new(change->map, &change->index);
	return rc == 0 ? commit(settle, change->map, batch->data_bytes, false, start_ns) : rc;
}

/* Everything between mirror() and the end of the step. */
static int move_mirrored(struct settle *settle, struct batch *batch, const struct settle_limits *limits,
                         int64_t start_ns)
{
	__attribute__((cleanup(cleanup_change))) struct change change = {0};
	int rc = batch_copy(settle, batch, limits);

	if (rc == 0)
		rc = batch_cut(settle, batch);
	if (rc == 0 && batch->count > 0)
		rc = sync_and_commit(settle, batch, &change, start_ns);
	if (rc == -EINPROGRESS)
		return rc;
	if (rc < 0 || batch->count == 0)
		abandon(settle, batch);
	else
		use_new_map(settle, batch, &change);
	return rc;
}

static void cleanup_batch(struct batch **batch)
{
	if (*batch)
		batch_release(*batch);
	free(*batch);
}

static int move_batch(struct settle *settle, const struct settle_limits *limits, int64_t start_ns)
{
	__attribute__((cleanup(cleanup_batch))) struct batch *batch = calloc(1, sizeof *batch);
	int64_t end_ns = limits->step_ms ? start_ns + limits->step_ms * INT64_C(1000000) : 0;
	uint64_t data_bytes;

	if (!batch)
		return -ENOMEM;
	if (settle_wait(settle, limits, end_ns))
		return 0;
	int rc = batch_bytes(settle, limits, &data_bytes);
	if (rc == 0)
		rc = batch_choose(settle, data_bytes, batch);
	if (rc == 0)
		rc = batch_prepare(settle, batch);
	if (rc == 0)
		rc = settle->hooks.mirror(settle->hooks.context, batch->windows, batch->count);
	return rc == 0 ? move_mirrored(settle, batch, limits, start_ns) : rc;
}

/* Nothing is left to move. What the file is longer than the map needs is no more use to anybody. */
static int finish(struct settle *settle, int64_t start_ns)
{
	uint64_t needed = image_map_host_end(settle->map), length = 0;
	int rc = 0;

	if (settle->record.run == 0)
		return 0;
	if (!settle->record.finished)
		rc = commit(settle, settle->map, 0, true, start_ns);
	if (rc == 0)
		rc = data_length(settle, &length);
	if (rc == 0 && length > needed)
		rc = settle->io->ftruncate(settle->io, settle->data_fd, needed);
	return rc;
}

int settle_step(struct settle *settle, struct image_map *map, const struct settle_limits *limits,
                struct settle_progress *progress)
{
	int64_t start_ns = settle_now_ns();
	bool finished = false;
	int rc = 0;

	settle->gently = limits->rate > 0 || limits->idle;
	if (map != settle->map || (plan_done(settle) && settle->options.identity))
		rc = make_plan(settle, map);
	if (rc == 0 && !plan_done(settle))
		rc = move_batch(settle, limits, start_ns);
	if (rc == 0 && plan_done(settle) &&
	    (!settle->options.identity || settle->plan.count == 0 || image_map_is_identity(settle->map))) {
		rc = finish(settle, start_ns);
		finished = rc == 0;
	}
	if (rc < 0)
		return rc;
	*progress = (struct settle_progress){
	        .bytes_planned = settle->plan.bytes,
	        .bytes_left = settle->plan.bytes - settle->placed,
	        .bytes_moved = settle->record.bytes_moved,
	        .extents_before = settle->record.run ? settle->run.extents_before : image_map_count(settle->map),
	        .extents = image_map_count(settle->map),
	        .finished = finished,
	};
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * settle: what one step copies: choosing it, and copying it piece by piece.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

#include "mapdb/settle_internal.h"

#define READ_AHEAD    (UINT64_C(8) << 20) /* bytes */
#define GENTLE_AHEAD  4                   /* pieces */
#define HOLES_FACTOR  16                  /* a batch may have so many times more holes than data */
#define COPIES_SHARED 3                   /* after these a piece that is always written to is copied exclusively */

#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* Visits what of the guest's range is data on the host, in guest order, host stretch by host stretch. */
typedef int visit_data(void *context, uint64_t guest_off, uint64_t host_off, uint64_t length);

static int for_each_data(const struct settle *settle, uint64_t guest_off, uint64_t length, visit_data *visit,
                         void *context)
{
	struct host_stretch stretch = {0};
	uint64_t end = guest_off + length;
	int rc = 0;

	while (guest_off < end && rc == 0) {
		struct extent extent;

		image_map_lookup(settle->map, guest_off, end - guest_off, &extent);
		if (extent.host_off < stretch.start || extent.host_off >= stretch.end)
			rc = host_stretch_at(settle->data_fd, extent.host_off, &stretch);
		uint64_t part = MIN(extent.length, stretch.end - extent.host_off);
		if (rc == 0 && stretch.data)
			rc = visit(context, guest_off, extent.host_off, part);
		guest_off += part;
	}
	return rc;
}

/* Adds bytes of the plan's move to the batch. */
static bool add_window(struct batch *batch, const struct extent *move, uint64_t done, uint64_t length)
{
	struct extent *last = batch->count ? &batch->windows[batch->count - 1] : NULL;

	if (last && last->guest_off + last->length == move->guest_off + done &&
	    last->host_off + last->length == move->host_off + done) {
		last->length += length;
		return true;
	}
	if (batch->count == WINDOWS_MAX)
		return false;
	batch->windows[batch->count++] = (struct extent){
	        .guest_off = move->guest_off + done, .length = length, .host_off = move->host_off + done};
	return true;
}

/* How many bytes of the image hold about so much data. Where holes are dense in places, copying ends earlier. */
static int bytes_with_data(const struct settle *settle, uint64_t data_bytes, uint64_t *bytes)
{
	struct stat status;

	if (fstat(settle->data_fd, &status) < 0)
		return -errno;
	double allocated = (double)status.st_blocks * 512, size = (double)image_map_size(settle->map);
	double factor = allocated < size ? size / (allocated + 1) : 1;
	*bytes = (uint64_t)((double)data_bytes * MIN(factor, HOLES_FACTOR));
	*bytes = (*bytes + HOST_BLOCK) / HOST_BLOCK * HOST_BLOCK;
	return 0;
}

static int choose_windows(struct settle *settle, struct batch *batch)
{
	uint64_t left = 0, done = settle->next_done;
	int rc = bytes_with_data(settle, batch->data_max, &left);

	for (size_t i = settle->next; i < settle->plan.count && left > 0 && rc == 0; i++, done = 0) {
		const struct extent *move = &settle->plan.moves[i];
		uint64_t length = MIN(left, move->length - done);

		if (!add_window(batch, move, done, length))
			break;
		left -= length;
	}
	return rc;
}

static int by_guest_off(const void *left, const void *right)
{
	const struct extent *a = left, *b = right;

	return a->guest_off < b->guest_off ? -1 : a->guest_off > b->guest_off;
}

static int by_host_off(const void *left, const void *right)
{
	const struct extent *a = left, *b = right;

	return a->host_off < b->host_off ? -1 : a->host_off > b->host_off;
}

static int append(struct extent_list *list, const struct extent *extent)
{
	if (list->count == list->capacity) {
		size_t capacity = list->capacity ? list->capacity * 2 : 256;
		struct extent *grown = reallocarray(list->extents, capacity, sizeof *grown);

		if (!grown)
			return -ENOMEM;
		list->extents = grown;
		list->capacity = capacity;
	}
	list->extents[list->count++] = *extent;
	return 0;
}

/* Appends where the bytes [guest_off, guest_off + length) are. */
static int add_sources(const struct settle *settle, struct batch *batch, uint64_t guest_off, uint64_t length)
{
	uint64_t end = guest_off + length;
	int rc = 0;

	while (guest_off < end && rc == 0) {
		struct extent source;

		image_map_lookup(settle->map, guest_off, end - guest_off, &source);
		rc = append(&batch->sources, &source);
		guest_off += source.length;
	}
	return rc;
}

static void put_in_order(struct extent_list *list, int (*order)(const void *, const void *))
{
	if (list->count > 0)
		qsort(list->extents, list->count, sizeof *list->extents, order);
}

/* Puts the sources into host order and joins neighbours. */
static void join_sources(struct batch *batch)
{
	struct extent_list *sources = &batch->sources;
	size_t joined = 0;

	put_in_order(sources, by_host_off);
	for (size_t i = 0; i < sources->count; i++) {
		struct extent *last = joined > 0 ? &sources->extents[joined - 1] : NULL;

		if (last && last->host_off + last->length == sources->extents[i].host_off)
			last->length += sources->extents[i].length;
		else
			sources->extents[joined++] = sources->extents[i];
	}
	sources->count = joined;
}

/* Adds what of a source is data to what is to be copied. stretch: the last one that was seen. */
static int add_data(const struct settle *settle, struct batch *batch, const struct extent *source,
                    struct host_stretch *stretch)
{
	int rc = 0;

	for (uint64_t done = 0; done < source->length && rc == 0;) {
		struct extent part = {.guest_off = source->guest_off + done, .host_off = source->host_off + done};

		if (part.host_off < stretch->start || part.host_off >= stretch->end)
			rc = host_stretch_at(settle->data_fd, part.host_off, stretch);
		if (rc < 0)
			break;
		part.length = MIN(source->length - done, stretch->end - part.host_off);
		if (stretch->data)
			rc = append(&batch->data, &part);
		done += part.length;
	}
	return rc;
}

/* Has the host start to read the data, which is in host order: all at once, in its own order, instead of one small
 * extent after another. */
static void start_reading(const struct settle *settle, const struct extent *data, size_t count)
{
	for (size_t i = 0, next; i < count; i = next) {
		uint64_t end = data[i].host_off + data[i].length;

		for (next = i + 1; next < count && data[next].host_off == end; next++)
			end += data[next].length;
		posix_fadvise(settle->data_fd, (off_t)data[i].host_off, (off_t)(end - data[i].host_off),
		              POSIX_FADV_WILLNEED);
	}
}

/* A place in the batch's windows. */
struct place {
	size_t window;
	uint64_t done;
};

/* Finds what of the sources, which are in the way of nobody else now, is data: in host order, in which one answer of
 * the host serves for many; and has it read. What is copied already is forgotten. */
static int find_data(const struct settle *settle, struct batch *batch)
{
	struct extent_list *data = &batch->data;
	struct host_stretch stretch = {0};
	size_t left = data->count - batch->data_next;
	int rc = 0;

	if (left > 0)
		memmove(data->extents, data->extents + batch->data_next, left * sizeof *data->extents);
	data->count = left;
	batch->data_next = 0;
	put_in_order(&batch->sources, by_host_off);
	for (size_t i = 0; i < batch->sources.count && rc == 0; i++)
		rc = add_data(settle, batch, &batch->sources.extents[i], &stretch);
	batch->sources.count = 0;
	if (rc == 0 && data->count > left) {
		start_reading(settle, data->extents + left, data->count - left);
		qsort(data->extents + left, data->count - left, sizeof *data->extents, by_guest_off);
	}
	return rc;
}

/* Knows what is data, and keeps it on its way from the disk, before the place that is copied next: many bytes, and many
 * at once, for the disk to put in order; but only a few pieces where the guest's requests are not to be stuck behind
 * them. */
static int look_ahead(const struct settle *settle, struct batch *batch, struct place *ahead, uint64_t piece,
                      bool gently)
{
	uint64_t goal = batch->copied + (gently ? GENTLE_AHEAD * piece : READ_AHEAD);

	if (batch->ahead + (gently ? piece : READ_AHEAD / 2) > goal)
		return 0;
	while (ahead->window < batch->count && batch->ahead < goal) {
		const struct extent *window = &batch->windows[ahead->window];
		uint64_t length = MIN(goal - batch->ahead, window->length - ahead->done);
		int rc = add_sources(settle, batch, window->guest_off + ahead->done, length);

		if (rc < 0)
			return rc;
		batch->ahead += length;
		ahead->done += length;
		if (ahead->done == window->length)
			*ahead = (struct place){.window = ahead->window + 1};
	}
	return find_data(settle, batch);
}

int batch_choose(struct settle *settle, uint64_t data_bytes, struct batch *batch)
{
	*batch = (struct batch){.data_max = data_bytes};
	return choose_windows(settle, batch);
}

void batch_release(struct batch *batch)
{
	free(batch->sources.extents);
	free(batch->data.extents);
}

int batch_prepare(struct settle *settle, const struct batch *batch)
{
	const struct host_puncher puncher = settle_puncher(settle);
	int rc = 0;

	for (size_t i = 0; i < batch->count && rc == 0; i++)
		rc = host_space_punch(&puncher, batch->windows[i].host_off, batch->windows[i].length);
	return rc;
}

/* Data on its way to the new place: the buffer holds guest bytes that follow each other. */
struct copying {
	const struct settle *settle;
	uint64_t to_host; /* add to a guest offset to get the new host offset */
	uint64_t guest_off;
	size_t length;
	uint64_t bytes; /* written so far */
};

static int copy_flush(struct copying *copying)
{
	const struct settle *settle = copying->settle;
	int rc = 0;

	if (copying->length > 0)
		rc = io_pwrite_full(settle->io, settle->data_fd, settle->buffer, copying->length,
		                    copying->guest_off + copying->to_host);
	copying->bytes += copying->length;
	copying->length = 0;
	return rc;
}

static int copy_data(void *context, uint64_t guest_off, uint64_t host_off, uint64_t length)
{
	struct copying *copying = context;
	const struct settle *settle = copying->settle;
	int rc = 0;

	if (copying->length > 0 && copying->guest_off + copying->length != guest_off)
		rc = copy_flush(copying);
	if (rc == 0)
		rc = io_pread_full(settle->io, settle->data_fd, settle->buffer + copying->length, (size_t)length,
		                   host_off);
	if (rc < 0)
		return rc;
	if (copying->length == 0)
		copying->guest_off = guest_off;
	copying->length += (size_t)length;
	return 0;
}

/* At once: writes may be waiting. */
static int punch(const struct settle *settle, uint64_t host_off, uint64_t length)
{
	return settle->io->fallocate(settle->io, settle->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, host_off,
	                             length);
}

/* Copies of the piece that is next what was data when look_ahead() saw it. The batch was mirrored then: what the guest
 * has put into a hole since is in the new place, too; and what it has discarded since reads as zeros. */
static int copy_known(struct batch *batch, uint64_t guest_end, struct copying *copying)
{
	int rc = 0;

	while (batch->data_next < batch->data.count && rc == 0) {
		struct extent *data = &batch->data.extents[batch->data_next];

		if (data->guest_off >= guest_end)
			break;
		uint64_t part = MIN(data->length, guest_end - data->guest_off);
		rc = copy_data(copying, data->guest_off, data->host_off, part);
		if (part == data->length)
			batch->data_next++;
		else
			*data = (struct extent){.guest_off = data->guest_off + part,
			                        .length = data->length - part,
			                        .host_off = data->host_off + part};
	}
	return rc;
}

/* Copies the piece that is next until nobody has written to it meanwhile. */
static int copy_piece(struct settle *settle, struct batch *batch, const struct extent *piece, uint64_t *bytes)
{
	int rc = 1;

	for (int copies = 0; rc == 1; copies++) {
		struct copying copying = {.settle = settle, .to_host = piece->host_off - piece->guest_off};

		settle->hooks.copy_begin(settle->hooks.context, piece->guest_off, piece->length,
		                         copies >= COPIES_SHARED);
		if (copies == 0)
			rc = copy_known(batch, piece->guest_off + piece->length, &copying);
		else /* what was discarded since the last time must not stay copied */
			rc = punch(settle, piece->host_off, piece->length);
		if (copies > 0 && rc == 0)
			rc = for_each_data(settle, piece->guest_off, piece->length, copy_data, &copying);
		if (rc == 0)
			rc = copy_flush(&copying);
		int written = settle->hooks.copy_end(settle->hooks.context);
		rc = rc < 0 ? rc : written;
		*bytes = copying.bytes;
	}
	return rc;
}

static int move_piece(struct settle *settle, struct batch *batch, const struct extent *piece)
{
	uint64_t bytes = 0;
	int rc = copy_piece(settle, batch, piece, &bytes);

	if (rc < 0)
		return rc;
	/* Left to the sync in the end, the whole batch would keep the disk from the guest's requests at once. */
	host_start_writing(settle->data_fd, piece->host_off, piece->length);
	settle_pace_add(&settle->pace, bytes);
	batch->data_bytes += bytes;
	batch->copied += piece->length;
	return 0;
}

int batch_copy(struct settle *settle, struct batch *batch, const struct settle_limits *limits)
{
	int64_t end_ns = limits->step_ms ? settle_now_ns() + limits->step_ms * INT64_C(1000000) : 0;
	uint64_t piece_bytes = settle_piece(limits);
	struct place ahead = {0};

	for (size_t i = 0; i < batch->count; i++) {
		const struct extent *window = &batch->windows[i];

		for (uint64_t done = 0; done < window->length;) {
			const struct extent piece = {.guest_off = window->guest_off + done,
			                             .length = MIN(piece_bytes, window->length - done),
			                             .host_off = window->host_off + done};

			/* However slow the host is and busy the guest, each step gets on by a piece. */
			if (batch->copied == 0
			            ? settle->hooks.stop(settle->hooks.context)
			            : batch->data_bytes >= batch->data_max || settle_wait(settle, limits, end_ns))
				return 0;
			int rc = look_ahead(settle, batch, &ahead, piece_bytes, limits->rate > 0);
			if (rc == 0)
				rc = move_piece(settle, batch, &piece);
			if (rc < 0)
				return rc;
			done += piece.length;
		}
	}
	return 0;
}

int batch_cut(struct settle *settle, struct batch *batch)
{
	uint64_t left = batch->copied;
	size_t count = 0;
	int rc = 0;

	for (size_t i = 0; i < batch->count && rc == 0; i++) {
		struct extent *window = &batch->windows[i];
		uint64_t copied = MIN(window->length, left);

		left -= copied;
		if (copied < window->length)
			batch->rest[batch->rest_count++] = (struct extent){.guest_off = window->guest_off + copied,
			                                                   .length = window->length - copied,
			                                                   .host_off = window->host_off + copied};
		window->length = copied;
		count += copied > 0;
		rc = add_sources(settle, batch, window->guest_off, copied);
	}
	batch->count = count;
	join_sources(batch);
	return rc;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/transfer.h"

#ifdef ZCFS_FUSE_RING_IO

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "fs/data.h"
#include "fs/map_walk.h"
#include "fs/ring_place.h"
#include "fs/workers.h"

/* A request over more pieces than that is for a thread that waits: it also puts them in the order of the host. */
#define PIECES_MAX 32

/* While fewer requests of the disk's are under way, a ring's thread starts the next piece itself. Few disks' queues are
 * that short (a USB disk's is: 2). A long piece is several, roughly. */
#define START_HERE_MAX 8
#define DISK_REQUEST   (128u << 10)

/* A longer read into the cache is for a worker: its copy is made after it was waited for. */
#define CACHED_MAX (64u << 10)

struct piece {
	struct fuse_uring_io io; /* first */
	struct transfer *transfer;
	unsigned int length; /* bytes */
};

/* Of the disk, for pieces that have begun and not ended, of all rings. */
static atomic_uint requests_under_way;

/* All of it belongs to the ring's thread. */
struct transfer {
	struct transfer_request *request;
	struct live_map *live; /* pinned; NULL: of a plain image */
	size_t length;         /* bytes: less than was requested at the end of an image */
	bool write;
	bool failed;
	unsigned int under_way; /* pieces, and the start itself */
	struct piece pieces[];
};

static void end_one(struct transfer *transfer)
{
	struct transfer_request *request = transfer->request;
	ssize_t n = transfer->failed ? -EAGAIN : (ssize_t)transfer->length;

	if (--transfer->under_way > 0)
		return;
	if (transfer->write)
		write_gate_end_direct(&request->image->gate);
	if (transfer->live)
		map_pointer_unpin(&request->image->current, transfer->live);
	free(transfer);
	request->done(request, n);
}

static unsigned int disk_requests(const struct piece *piece)
{
	return 1 + piece->length / DISK_REQUEST;
}

static void piece_done(struct fuse_uring_io *io, int result)
{
	struct piece *piece = (struct piece *)io;

	atomic_fetch_sub_explicit(&requests_under_way, disk_requests(piece), memory_order_relaxed);
	piece->transfer->failed |= result != (int)piece->length;
	end_one(piece->transfer);
}

/* How many, at most PIECES_MAX + 1. */
static size_t count_pieces(struct map_walk walk)
{
	uint64_t host_off;
	size_t n, count = 0;

	while (count <= PIECES_MAX && map_walk_next(&walk, &host_off, &n))
		count++;
	return count;
}

/* While little is under way, this thread starts the next piece itself, which takes one change of thread less. The
 * kernel may then have it wait for a place in the disk's queue, so not while more that the daemon has begun is waiting:
 * if the disk hangs, that is what fills its queue. */
static bool may_start_here(void)
{
	return atomic_load_explicit(&requests_under_way, memory_order_relaxed) < START_HERE_MAX && !workers_at_work();
}

static void start_piece(struct transfer *transfer, struct piece *piece, int fd, uint8_t *buffer, size_t length,
                        uint64_t host_off)
{
	int flags = (transfer->write ? FUSE_URING_IO_WRITE : 0) | (may_start_here() ? 0 : FUSE_URING_IO_ASYNC);

	*piece = (struct piece){.io.done = piece_done, .transfer = transfer, .length = (unsigned int)length};
	if (fuse_req_uring_io(transfer->request->req, &piece->io, flags, fd, buffer, piece->length, (off_t)host_off)) {
		transfer->failed = true;
		return;
	}
	atomic_fetch_add_explicit(&requests_under_way, disk_requests(piece), memory_order_relaxed);
	transfer->under_way++;
}

/* The caller ends it, too. NULL: nothing was begun. */
static struct transfer *start(struct transfer_request *request, struct live_map *live, int fd, size_t length,
                              bool write)
{
	struct map_walk walk = {0};
	uint8_t *buffer = request->buffer;
	struct transfer *transfer;
	uint64_t host_off;
	size_t n, count = 1;

	if (live)
		walk = map_walk_begin(live->map, request->off, length);
	if (live)
		count = count_pieces(walk);
	transfer = count > PIECES_MAX ? NULL : malloc(sizeof(*transfer) + count * sizeof(struct piece));
	if (!transfer)
		return NULL;
	*transfer =
	        (struct transfer){.request = request, .live = live, .length = length, .write = write, .under_way = 1};
	ring_place_transfer();
	if (live)
		map_pointer_pin(live);
	if (!live)
		start_piece(transfer, transfer->pieces, fd, buffer, length, request->off);
	for (size_t i = 0; live && map_walk_next(&walk, &host_off, &n); buffer += n)
		start_piece(transfer, &transfer->pieces[i++], fd, buffer, n, host_off);
	return transfer;
}

/* How much of it there is. */
static size_t readable(const struct transfer_request *request, const struct image_map *map)
{
	uint64_t size = image_map_size(map);

	if (request->off >= size)
		return 0;
	return request->length < size - request->off ? request->length : (size_t)(size - request->off);
}

/* The descriptor for a read of so many bytes; -1: it is for a thread that waits. Through the cache all are but short
 * ones, of which nothing else is to be done. */
static int read_fd(struct transfer_request *request, const struct live_map *live, size_t length)
{
	struct open_image *image = request->image;
	int fd = request->direct ? direct_file_fd(&image->direct) : -1;

	if (fd >= 0)
		return direct_file_fits(&image->direct, live ? live->map : NULL, request->buffer, request->off, length)
		               ? fd
		               : -1;
	if (length > CACHED_MAX || !may_start_here() || read_ahead_due(&image->ahead, request->off, length))
		return -1;
	return image->image->data_fd;
}

static struct transfer *start_read(struct transfer_request *request, struct live_map *live)
{
	size_t length = live ? readable(request, live->map) : request->length;
	int fd = length > 0 && !request->image->image->overlay ? read_fd(request, live, length) : -1;

	return fd < 0 ? NULL : start(request, live, fd, length, false);
}

static struct transfer *start_write(struct transfer_request *request, struct live_map *live)
{
	struct open_image *image = request->image;
	struct transfer *transfer;
	int fd;

	if (live && request->length > readable(request, live->map))
		return NULL;
	fd = request->direct ? data_direct_write_fd(image, live, request->buffer, request->length, request->off) : -1;
	if (fd < 0 || !write_gate_begin_direct(&image->gate))
		return NULL;
	transfer = start(request, live, fd, request->length, true);
	if (!transfer)
		write_gate_end_direct(&image->gate);
	return transfer;
}

/* By the current map, if the image has one. */
static void start_by_map(struct transfer_request *request,
                         struct transfer *(*start_it)(struct transfer_request *request, struct live_map *live))
{
	struct live_map *live = request->image->bundle ? map_borrow(request->image) : NULL;
	struct transfer *transfer = start_it(request, live);

	if (live)
		map_return(request->image, live);
	if (transfer)
		end_one(transfer);
	else
		request->done(request, -EAGAIN);
}

void transfer_read(struct transfer_request *request)
{
	start_by_map(request, start_read);
}

void transfer_write(struct transfer_request *request)
{
	start_by_map(request, start_write);
}

#else

#include <errno.h>

void transfer_read(struct transfer_request *request)
{
	request->done(request, -EAGAIN);
}

void transfer_write(struct transfer_request *request)
{
	request->done(request, -EAGAIN);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * data: reads and writes of an open image.
 *
 * The thread model
 * ----------------
 * libfuse reads requests in a pool of threads, each of which runs a handler to its end. Three kinds of things can make
 * a handler wait, and each has its rule:
 *
 *   - The disk. Reads, writes, fsync and the names of the store wait for it in the request thread: that is what the
 * pool is for. A request over many extents first takes what is cached, then has the host read all the rest at once, and
 * only then waits; never for one extent after another.
 *   - Another process that holds an image's lock (a tool). No request thread ever waits for that: it makes one attempt
 * and otherwise leaves the request to the thread in fs/waiting.c.
 *   - Each other. Reads and writes hold no lock while they do I/O: they borrow the current map (a pointer copy under a
 * mutex) and return it. Only what changes the size, the allocation or the database of an image takes its mutex
 * "change", and keeps it over I/O; it then waits for those who still use the old map, who in turn wait for nothing but
 * the disk. A write that must grow a bundle returns the map first, takes "change", grows, and borrows the new map.
 *
 * The kernel orders a truncate against the writes of the same inode; the wait for the old map's users is for those who
 * come by other ways (and for the settle pass): once it is over, nobody writes to host bytes that only the old map
 * names.
 *
 * No notification is sent to the kernel from a handler. Threads start after the daemon's last fork.
 */
#include "fs/data.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "fs/resize.h"
#include "fs/store.h"

/* A request of 1 MiB over 4 KiB clusters is one batch. */
#define BATCH_MAX 256

struct piece {
	uint64_t host_off;
	uint8_t *buffer;
	size_t length; /* bytes */
};

/* Pieces that follow each other on the host: one system call. */
struct run {
	size_t first, count; /* pieces */
	size_t length;       /* bytes */
};

struct batch {
	struct piece pieces[BATCH_MAX];
	struct run runs[BATCH_MAX];
	size_t piece_count, run_count;
};

static int by_host_off(const void *left, const void *right)
{
	const struct piece *a = left, *b = right;

	return a->host_off < b->host_off ? -1 : a->host_off > b->host_off;
}

/* Splits [guest_off, guest_off + length) into at most BATCH_MAX pieces in host order. Returns the bytes they cover. */
static size_t batch_fill(struct batch *batch, const struct image_map *map, uint8_t *buffer, size_t length,
                         uint64_t guest_off)
{
	size_t done = 0, count = 0;

	for (; done < length && count < BATCH_MAX; count++) {
		struct extent extent;

		image_map_lookup(map, guest_off + done, length - done, &extent);
		batch->pieces[count] = (struct piece){extent.host_off, buffer + done, (size_t)extent.length};
		done += (size_t)extent.length;
	}
	if (count > 1)
		qsort(batch->pieces, count, sizeof(batch->pieces[0]), by_host_off);

	batch->piece_count = count;
	batch->run_count = 0;
	for (size_t i = 0; i < count; i++) {
		struct run *run = batch->run_count ? &batch->runs[batch->run_count - 1] : NULL;

		if (run && batch->pieces[run->first].host_off + run->length == batch->pieces[i].host_off) {
			run->count++;
			run->length += batch->pieces[i].length;
		} else {
			batch->runs[batch->run_count++] = (struct run){i, 1, batch->pieces[i].length};
		}
	}
	return done;
}

static int run_vector(const struct batch *batch, const struct run *run, struct iovec *vector)
{
	for (size_t i = 0; i < run->count; i++) {
		vector[i].iov_base = batch->pieces[run->first + i].buffer;
		vector[i].iov_len = batch->pieces[run->first + i].length;
	}
	return (int)run->count;
}

/* Reads what is cached; has the host start reading the rest. False: the run is still to be read. */
static bool run_read_cached(const struct batch *batch, const struct run *run, int fd)
{
	struct iovec vector[BATCH_MAX];
	off_t host_off = (off_t)batch->pieces[run->first].host_off;
	ssize_t n = preadv2(fd, vector, run_vector(batch, run, vector), host_off, RWF_NOWAIT);

	if (n == (ssize_t)run->length)
		return true;
	posix_fadvise(fd, host_off, (off_t)run->length, POSIX_FADV_WILLNEED);
	return false;
}

static int run_read(const struct batch *batch, const struct run *run, int fd)
{
	struct iovec vector[BATCH_MAX];
	off_t host_off = (off_t)batch->pieces[run->first].host_off;
	int ret = 0;

	if (preadv(fd, vector, run_vector(batch, run, vector), host_off) == (ssize_t)run->length)
		return 0;
	for (size_t i = run->first; ret == 0 && i < run->first + run->count; i++) {
		const struct piece *piece = &batch->pieces[i];

		ret = io_pread_full(store.io, fd, piece->buffer, piece->length, piece->host_off);
	}
	return ret;
}

static int batch_read(struct batch *batch, int fd)
{
	size_t missing = 0;
	int ret = 0;

	if (batch->run_count == 1)
		return run_read(batch, &batch->runs[0], fd);
	for (size_t i = 0; i < batch->run_count; i++)
		if (!run_read_cached(batch, &batch->runs[i], fd))
			batch->runs[missing++] = batch->runs[i];
	for (size_t i = 0; ret == 0 && i < missing; i++)
		ret = run_read(batch, &batch->runs[i], fd);
	return ret;
}

static int batch_write(const struct batch *batch, int fd)
{
	struct iovec vector[BATCH_MAX];
	int ret = 0;

	for (size_t r = 0; ret == 0 && r < batch->run_count; r++) {
		const struct run *run = &batch->runs[r];
		off_t host_off = (off_t)batch->pieces[run->first].host_off;

		if (pwritev(fd, vector, run_vector(batch, run, vector), host_off) == (ssize_t)run->length)
			continue;
		for (size_t i = run->first; ret == 0 && i < run->first + run->count; i++) {
			const struct piece *piece = &batch->pieces[i];

			ret = io_pwrite_full(store.io, fd, piece->buffer, piece->length, piece->host_off);
		}
	}
	return ret;
}

/* What a recovery could not write yet is put over what was read. */
static void batch_patch(const struct batch *batch, const struct redo_overlay *overlay)
{
	for (size_t i = 0; i < batch->piece_count; i++)
		redo_overlay_patch(overlay, batch->pieces[i].host_off, batch->pieces[i].buffer,
		                   batch->pieces[i].length);
}

static int read_mapped(const struct open_image *image, const struct image_map *map, uint8_t *buffer, size_t length,
                       uint64_t guest_off)
{
	const struct redo_overlay *overlay = image->image->overlay;
	int fd = image->image->data_fd;
	struct extent extent;
	struct batch batch;
	int ret = 0;

	image_map_lookup(map, guest_off, length, &extent);
	if (extent.length == length) {
		ret = io_pread_full(store.io, fd, buffer, length, extent.host_off);
		if (ret == 0 && overlay)
			redo_overlay_patch(overlay, extent.host_off, buffer, length);
		return ret;
	}
	for (size_t done = 0; ret == 0 && done < length;) {
		done += batch_fill(&batch, map, buffer + done, length - done, guest_off + done);
		ret = batch_read(&batch, fd);
		if (ret == 0 && overlay)
			batch_patch(&batch, overlay);
	}
	return ret;
}

static int write_mapped(int fd, const struct image_map *map, const uint8_t *buffer, size_t length, uint64_t guest_off)
{
	struct extent extent;
	struct batch batch;
	int ret = 0;

	image_map_lookup(map, guest_off, length, &extent);
	if (extent.length == length)
		return io_pwrite_full(store.io, fd, buffer, length, extent.host_off);
	for (size_t done = 0; ret == 0 && done < length;) {
		/* Pieces serve both directions, hence not const; writing only reads them. */
		done += batch_fill(&batch, map, (uint8_t *)(uintptr_t)buffer + done, length - done, guest_off + done);
		ret = batch_write(&batch, fd);
	}
	return ret;
}

static ssize_t read_plain(const struct open_image *image, uint8_t *buffer, size_t length, uint64_t off)
{
	size_t done = 0;

	while (done < length) {
		ssize_t n = store.io->pread(store.io, image->image->data_fd, buffer + done, length - done, off + done);

		if (n < 0)
			return done ? (ssize_t)done : n;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

static ssize_t write_plain(int fd, const uint8_t *buffer, size_t length, uint64_t off)
{
	size_t done = 0;

	while (done < length) {
		ssize_t n = store.io->pwrite(store.io, fd, buffer + done, length - done, off + done);

		if (n <= 0)
			return done ? (ssize_t)done : n;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

ssize_t data_read(struct open_image *image, uint8_t *buffer, size_t length, uint64_t guest_off)
{
	struct live_map *live;
	uint64_t size;
	int ret = 0;

	if (!image->bundle)
		return read_plain(image, buffer, length, guest_off);

	live = map_borrow(image);
	size = image_map_size(live->map);
	if (guest_off >= size)
		length = 0;
	else if (length > size - guest_off)
		length = (size_t)(size - guest_off);
	if (length > 0)
		ret = read_mapped(image, live->map, buffer, length, guest_off);
	map_return(image, live);
	return ret < 0 ? ret : (ssize_t)length;
}

ssize_t data_write(struct open_image *image, const uint8_t *buffer, size_t length, uint64_t guest_off)
{
	int fd = atomic_load_explicit(&image->write_fd, memory_order_relaxed);
	struct live_map *live;
	uint64_t end;
	int ret;

	if (fd < 0)
		return -EROFS;
	if (length == 0)
		return 0;
	if (__builtin_add_overflow(guest_off, length, &end) || end > IMAGE_MAP_OFF_MAX)
		return -EFBIG;
	if (!image->bundle)
		return write_plain(fd, buffer, length, guest_off);

	live = map_borrow(image);
	while (end > image_map_size(live->map)) {
		map_return(image, live);
		ret = resize_grow_to(image, end);
		if (ret < 0)
			return ret;
		live = map_borrow(image);
	}
	ret = write_mapped(fd, live->map, buffer, length, guest_off);
	map_return(image, live);
	return ret < 0 ? ret : (ssize_t)length;
}

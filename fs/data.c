/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * data: reads and writes of an open image.
 *
 * The thread model
 * ----------------
 * Requests come in one of two ways (fs/dispatch.h), and three kinds of threads handle them:
 *
 *   - The thread of a ring, one a processor. Nothing that comes by its ring is answered while it handles a request, so
 *     it waits for nothing: reads of what is cached and writes into the cache are done in it (DATA_NOW), which saves
 *     two changes of thread; as soon as one of them would have to wait, a worker starts it again from the beginning.
 *   - Workers (fs/workers.h): whatever else comes by a ring. They may wait, and answer by the ring's own thread, which
 *     libfuse wakes up for it.
 *   - The threads that read /dev/fuse. Without rings they handle everything, as a worker would.
 *
 * What workers and the threads of /dev/fuse may wait for:
 *
 *   - The disk. A request over many extents first takes what is cached, then has the host read all the rest at once
 *     (fs/host_batch.h), and only then waits; never for one extent after another.
 *   - Each other. Reads and writes hold no lock while they do I/O: they borrow the current map (fs/live_map.h) and
 *     return it when they are done, in the same thread. Only what changes the size, the allocation or the database of
 *     an image takes its mutex "change", and keeps it over I/O; it then waits for those who still use the old map, who
 *     in turn wait for nothing but the disk. A write that must grow a bundle returns the map first, takes "change",
 *     grows, and borrows the new map.
 *   - Not for another process that holds an image's lock (a tool). They make one attempt and otherwise leave the
 *     request to the thread in fs/waiting.c.
 *
 * The kernel orders a truncate against the writes of the same inode; the wait for the old map's users is for those who
 * come by other ways (and for the settle pass): once it is over, nobody writes to host bytes that only the old map
 * names. No I/O is left on its way by who returns a map.
 *
 * The settle pass (fs/settle.h) has a thread of its own for each step. What is written to where it is at work goes to
 * two places (fs/mirror.h), in a thread that may wait: for another write to the same bytes, seldom for the copying of a
 * piece.
 *
 * No notification is sent to the kernel from a handler. Threads start after the daemon's last fork.
 */
#include "fs/data.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fs/host_batch.h"
#include "fs/host_file.h"
#include "fs/mirror.h"
#include "fs/resize.h"
#include "fs/store.h"

/* What the host's page cache works by. */
#define HOST_PAGE 4096u

/* The extents of a request, one after the other: those of the map, cut to [guest_off, guest_off + length). */
struct walk {
	const struct image_map *map;
	size_t index; /* of the next extent */
	uint64_t guest_off, end;
};

static struct walk walk_begin(const struct image_map *map, uint64_t guest_off, size_t length)
{
	return (struct walk){map, image_map_find(map, guest_off), guest_off, guest_off + length};
}

static bool walk_next(struct walk *walk, uint64_t *host_off, size_t *length)
{
	struct extent extent;
	uint64_t into;

	if (walk->guest_off == walk->end)
		return false;
	extent = image_map_get(walk->map, walk->index++);
	into = walk->guest_off - extent.guest_off;
	extent.length -= into;
	if (extent.length > walk->end - walk->guest_off)
		extent.length = walk->end - walk->guest_off;
	*host_off = extent.host_off + into;
	*length = (size_t)extent.length;
	walk->guest_off += extent.length;
	return true;
}

/* ---- reading ---- */

/* One extent without waiting: true if all of it was read. */
static bool read_now(struct open_image *image, uint8_t *buffer, size_t length, uint64_t host_off)
{
	return host_read_now(&image->host, image->image->data_fd, buffer, length, host_off) == (ssize_t)length;
}

static int read_mapped(struct open_image *image, const struct image_map *map, uint8_t *buffer, size_t length,
                       uint64_t guest_off, int flags)
{
	struct walk walk = walk_begin(map, guest_off, length);
	struct host_batch *misses = NULL;
	int fd = image->image->data_fd, ret = 0;
	uint64_t host_off;
	size_t n;

	for (; ret == 0 && walk_next(&walk, &host_off, &n); buffer += n) {
		if (read_now(image, buffer, n, host_off))
			continue;
		if (flags & DATA_NOW)
			return -EAGAIN;
		if (n == length)
			return host_read_all(fd, buffer, n, host_off);
		if (!misses)
			misses = host_batch_begin();
		if (!misses)
			return -ENOMEM;
		misses->pieces[misses->count++] = (struct host_piece){host_off, buffer, n};
		if (misses->count == HOST_BATCH_MAX) {
			ret = host_batch_read(misses, fd);
			misses->count = 0;
		}
	}
	if (ret == 0 && misses && misses->count > 0)
		ret = host_batch_read(misses, fd);
	return ret;
}

/* What a recovery could not write yet is put over what was read. */
static void patch(const struct redo_overlay *overlay, const struct image_map *map, uint8_t *buffer, size_t length,
                  uint64_t guest_off)
{
	struct walk walk = walk_begin(map, guest_off, length);
	uint64_t host_off;
	size_t n;

	for (; walk_next(&walk, &host_off, &n); buffer += n)
		redo_overlay_patch(overlay, host_off, buffer, n);
}

static ssize_t read_bundle(struct open_image *image, uint8_t *buffer, size_t length, uint64_t guest_off, int flags)
{
	struct live_map *live = map_borrow(image);
	uint64_t size = image_map_size(live->map);
	int ret = 0;

	if (guest_off >= size)
		length = 0;
	else if (length > size - guest_off)
		length = (size_t)(size - guest_off);
	if (length > 0)
		ret = read_mapped(image, live->map, buffer, length, guest_off, flags);
	if (length > 0 && ret == 0 && image->image->overlay)
		patch(image->image->overlay, live->map, buffer, length, guest_off);
	map_return(image, live);
	return ret < 0 ? ret : (ssize_t)length;
}

static ssize_t read_plain(struct open_image *image, uint8_t *buffer, size_t length, uint64_t off, int flags)
{
	ssize_t n = host_read_now(&image->host, image->image->data_fd, buffer, length, off);
	size_t done = 0;

	if (n >= 0 || (flags & DATA_NOW))
		return n;
	while (done < length) {
		n = store.io->pread(store.io, image->image->data_fd, buffer + done, length - done, off + done);
		if (n < 0)
			return done ? (ssize_t)done : n;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

ssize_t data_read(struct open_image *image, uint8_t *buffer, size_t length, uint64_t guest_off, int flags)
{
	return image->bundle ? read_bundle(image, buffer, length, guest_off, flags)
	                     : read_plain(image, buffer, length, guest_off, flags);
}

/* ---- writing ---- */

/* Writes in earnest. How many bytes, or -errno if none. */
static ssize_t write_wait(int fd, const uint8_t *buffer, size_t length, uint64_t host_off)
{
	size_t done = 0;

	while (done < length) {
		ssize_t n = pwrite(fd, buffer + done, length - done, (off_t)(host_off + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return done ? (ssize_t)done : n < 0 ? -errno : -EIO;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* All of it; what keeps a write from going on is said by the next. 0 or -errno. */
static int write_all(int fd, const uint8_t *buffer, size_t length, uint64_t host_off)
{
	while (length > 0) {
		ssize_t n = write_wait(fd, buffer, length, host_off);

		if (n < 0)
			return (int)n;
		buffer += n;
		length -= (size_t)n;
		host_off += (uint64_t)n;
	}
	return 0;
}

/* A page that is written in part is read first. Has the host start with that for all extents, so that they are not
 * waited for one after another. */
static void fetch_edges(int fd, struct walk walk)
{
	uint64_t host_off;
	size_t n;

	while (walk_next(&walk, &host_off, &n)) {
		if (host_off % HOST_PAGE)
			posix_fadvise(fd, (off_t)host_off, 1, POSIX_FADV_WILLNEED);
		if ((host_off + n) % HOST_PAGE)
			posix_fadvise(fd, (off_t)(host_off + n), 1, POSIX_FADV_WILLNEED);
	}
}

static int write_mapped(struct open_image *image, int fd, const struct image_map *map, const uint8_t *buffer,
                        size_t length, uint64_t guest_off, int flags)
{
	struct walk walk = walk_begin(map, guest_off, length);
	uint64_t host_off;
	ssize_t ret = 0;
	size_t n;

	if (!(flags & DATA_NOW) && !image->host.in_memory)
		fetch_edges(fd, walk);
	for (; ret >= 0 && walk_next(&walk, &host_off, &n); buffer += n) {
		if (flags & DATA_NOW)
			ret = host_write_now(&image->host, fd, buffer, n, host_off);
		else
			ret = write_all(fd, buffer, n, host_off);
	}
	return ret < 0 ? (int)ret : 0;
}

/* What goes to the new place of a window, too. */
struct mirrored_write {
	int fd;
	const uint8_t *buffer;
	uint64_t guest_off;
};

static int write_again(void *context, uint64_t guest_off, uint64_t host_off, uint64_t length)
{
	const struct mirrored_write *write = context;

	return write_all(write->fd, write->buffer + (guest_off - write->guest_off), (size_t)length, host_off);
}

/* Writes to where the settle pass is at work. */
static int write_mirrored(struct open_image *image, int fd, const struct live_map *live, const uint8_t *buffer,
                          size_t length, uint64_t guest_off, int flags)
{
	struct mirrored_write write = {fd, buffer, guest_off};
	struct mirror_hold hold;
	int ret;

	if (flags & DATA_NOW)
		return -EAGAIN;
	mirror_hold(live->mirror, &hold, guest_off, length);
	ret = write_mapped(image, fd, live->map, buffer, length, guest_off, flags);
	if (ret < 0)
		mirror_fail(live->mirror, ret);
	else
		ret = mirror_repeat(live->mirror, &hold, write_again, &write);
	mirror_release(live->mirror, &hold);
	return ret;
}

static ssize_t write_bundle(struct open_image *image, int fd, const uint8_t *buffer, size_t length, uint64_t guest_off,
                            int flags)
{
	struct live_map *live = map_borrow(image);
	uint64_t end = guest_off + length;
	int ret;

	while (end > image_map_size(live->map)) {
		map_return(image, live);
		ret = flags & DATA_NOW ? -EAGAIN : resize_grow_to(image, end);
		if (ret < 0)
			return ret;
		live = map_borrow(image);
	}
	if (live->mirror && mirror_covers(live->mirror, guest_off, length))
		ret = write_mirrored(image, fd, live, buffer, length, guest_off, flags);
	else
		ret = write_mapped(image, fd, live->map, buffer, length, guest_off, flags);
	map_return(image, live);
	return ret < 0 ? ret : (ssize_t)length;
}

ssize_t data_write(struct open_image *image, const uint8_t *buffer, size_t length, uint64_t guest_off, int flags)
{
	int fd = atomic_load_explicit(&image->write_fd, memory_order_relaxed);
	uint64_t end;
	ssize_t ret;

	if (fd < 0)
		return -EROFS;
	if (length == 0)
		return 0;
	if (__builtin_add_overflow(guest_off, length, &end) || end > IMAGE_MAP_OFF_MAX)
		return -EFBIG;
	if ((flags & DATA_NOW) && (flags & DATA_SYNC))
		return -EAGAIN;
	if (image->bundle)
		ret = write_bundle(image, fd, buffer, length, guest_off, flags);
	else if (flags & DATA_NOW)
		ret = host_write_now(&image->host, fd, buffer, length, guest_off);
	else
		ret = write_wait(fd, buffer, length, guest_off);
	/* Not with the write itself: how that fails, and how the flush, which is remembered, are two things. */
	if (ret >= 0 && (flags & DATA_SYNC)) {
		int synced = open_image_sync(image, true);

		ret = synced < 0 ? synced : ret;
	}
	return ret;
}

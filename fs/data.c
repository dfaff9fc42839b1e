/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * data: reads and writes of an open image.
 *
 * The thread model
 * ----------------
 * Requests come in one of two ways (fs/dispatch.c), and three kinds of threads handle them:
 *
 *   - The thread of a ring, one a processor, where it runs unless another is better (fs/ring_place.h). Nothing that
 *     comes by its ring is answered while it handles a request, so it waits for nothing: reads of what is cached and
 *     writes into memory are done in it (DATA_NOW), which saves two changes of thread. What goes past the cache it
 *     starts without waiting for it, by the same ring, and answers when that is done (fs/transfer.h). As soon as
 *     anything would have to wait, or has failed, a worker starts it again from the beginning. (What waiting is left is
 *     told below.) A long copy is offered to a worker, too, while other requests wait at the ring and not all
 *     processors are busy with such: whoever is free first does it (fs/ring_queue.h). It is the thread of one client
 *     that would otherwise do all copies while the other processors are idle. Without these conditions, clients that
 *     keep them busy already would lose a tenth, and one that has a single request on its way a quarter. After half a
 *     megabyte, or four I/Os that it has started or ended, the kernel gets to know what is done before more is begun
 *     (subprojects/packagefiles): a disk that gets its requests all at once is idle while their answers are handled.
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
 *   - Not for another process that holds an image's lock (a tool), or reads or changes its database. They make one
 *     attempt and otherwise leave the request to the thread in fs/waiting.c.
 *
 * The kernel orders a truncate against the writes of the same inode; the wait for the old map's users is for those who
 * come by other ways (and for the settle pass): once it is over, nobody writes to host bytes that only the old map
 * names. No I/O is left on its way by who returns a map, but what a ring's thread has started: that keeps it pinned.
 *
 * Cached or not
 * -------------
 * Without O_DIRECT, what a guest reads and writes is cached once, by the host's file system: the kernel's cache for the
 * mount would be a second copy of it, and costs more than it saves where requests are large. Only images that are first
 * opened for reading, by somebody who may do so in small pieces, are cached there, too (open_image_choose_cache).
 *
 * Who has opened an image with O_DIRECT gets it past the host's page cache, too: his reads and writes go to the disk by
 * a second descriptor (fs/direct_file.h), without a copy and without pushing out what others have cached. So that they
 * are what he asked for, reads of what is cached all the same are not answered from there. Through the cache go, for
 * him as for everybody:
 *
 *   - all of an image in memory (tmpfs), or where the file system does not say how O_DIRECT must be aligned;
 *   - requests of which a piece is not aligned so on the host, or in memory. By the sector is enough on most disks;
 *   - writes over many small extents, which the cache puts in order, and writes to where the settle pass is at work;
 *   - writes while others go through the cache (fs/write_gate.h), among them all of an image that somebody has open for
 *     writing through the kernel's passthrough.
 *
 * The kernel keeps the two coherent. A direct read has it write out what is dirty of the range, a direct write has it
 * write out and forget that before, and forget it again after; punching, zeroing and truncating wait for direct I/O in
 * flight. What it does not order are a cached and a direct write that meet in one page: the gate does. (It cannot for
 * a shared mapping of a passed-through image by one who writes it with O_DIRECT; it is the same with a raw file.)
 *
 * That is the host's cache. Pages of the mount's the kernel drops before a write past that cache, and after it since
 * Linux 6.19 only if it is synchronous, since 7.2 (not tried) always. One that is read while an asynchronous direct
 * write is on its way is old from then on, until an open drops it (file.c, may_keep_cache). Telling the kernel to drop
 * it (fuse_lowlevel_notify_inval_inode) would be worse: who does that waits for each page that is being read, and
 * cannot be interrupted.
 *
 *   - Before the write is answered: it keeps one of the places of background requests, and of its ring's. If all such
 *     writes wait for a page whose read waits for a place, that is for ever (tested).
 *   - Also after that: a daemon that is killed meanwhile cannot end, as the page's read is not answered, and its thread
 *     holds on to /dev/fuse, so that is not ended with an error, either, but by umount -f (tested).
 *
 * With cache=host only mapped memory and sendfile() go by the mount's cache.
 *
 * Direct I/O is not quite started without waiting by who asks for that: iomap, by which ext4, XFS and btrfs do it, does
 * not tell the block layer, where a thread then waits for a place in the disk's queue; if the disk hangs, as long as it
 * does (tested), and with a ring's thread all whose bytes are in memory. So a ring's thread starts only a few: while
 * hardly any direct I/O is under way, of all rings, and no worker is at work (fs/transfer.c). The rest it leaves to
 * threads of the kernel's, which costs a change of thread. What a ring's thread may still wait for, without much of
 * this daemon's waiting already, is a place in a queue that others have filled, among them the kernel writing out what
 * is dirty or, with a read through the cache, reading ahead; and for the file system to read where a file lies. It is
 * the disk then, never another request.
 *
 * Writes into the cache of a file system are not for a ring's thread. Some of these cannot say whether that means to
 * wait (ext4). And while one is frozen, as when a snapshot is taken, every write waits before it is looked at whether
 * it may; for good, if direct writes are on their way, which the freeze waits for and whose end is that thread's to
 * see.
 *
 * A short read of what is not cached a ring's thread starts, too, while it may start direct I/O itself: it takes half
 * of the processor, and a random one two thirds of the time. All others are for workers: a long copy would keep the
 * ring's thread, and what a guest reads in sequence over short extents is read ahead in the guest's order
 * (fs/read_ahead.h), which may wait.
 *
 * A direct write that fails is the guest's error, at once. A flush is still one of the descriptor for cached writes,
 * whose error sticks (open_image_sync); there is nothing that only the direct one could tell.
 *
 * The settle pass (fs/settle.h) has a thread of its own for each step. What is written to where it is at work goes to
 * two places (fs/mirror.h), in a thread that may wait: for another write to the same bytes, seldom for the copying of a
 * piece.
 *
 * No notification is sent to the kernel (see above). Threads start after the daemon's last fork.
 */
#include "fs/data.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fs/direct_file.h"
#include "fs/host_batch.h"
#include "fs/host_file.h"
#include "fs/map_walk.h"
#include "fs/mirror.h"
#include "fs/resize.h"
#include "fs/store.h"

/* What the host's page cache works by. */
#define HOST_PAGE 4096u

/* A write over more extents than that goes through the host's cache. */
#define DIRECT_PIECES_MAX 32

bool data_by_cache(const struct open_image *image, int flags)
{
	return !(flags & DATA_DIRECT) || direct_file_fd(&image->direct) < 0;
}

/* ---- reading ---- */

/* One extent without waiting: true if all of it was read. */
static bool read_now(struct open_image *image, uint8_t *buffer, size_t length, uint64_t host_off)
{
	return host_read_now(&image->host, image->image->data_fd, buffer, length, host_off) == (ssize_t)length;
}

/* Through fd. With DATA_DIRECT nothing is cached. */
static int read_pieces(struct open_image *image, int fd, struct map_walk walk, uint8_t *buffer, size_t length,
                       int flags)
{
	struct host_batch *misses = NULL;
	uint64_t host_off;
	int ret = 0;
	size_t n;

	for (; ret == 0 && map_walk_next(&walk, &host_off, &n); buffer += n) {
		if (!(flags & DATA_DIRECT) && read_now(image, buffer, n, host_off))
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

/* The descriptor for a read past the host's cache; -1: through it. map: of a bundle. */
static int direct_read_fd(const struct open_image *image, const struct image_map *map, const uint8_t *buffer,
                          size_t length, uint64_t off, int flags)
{
	int fd = flags & DATA_DIRECT ? direct_file_fd(&image->direct) : -1;

	return fd >= 0 && direct_file_fits(&image->direct, map, buffer, off, length) ? fd : -1;
}

static int read_mapped(struct open_image *image, const struct image_map *map, uint8_t *buffer, size_t length,
                       uint64_t guest_off, int flags)
{
	struct map_walk walk = map_walk_begin(map, guest_off, length);
	int direct_fd = direct_read_fd(image, map, buffer, length, guest_off, flags);

	/* Whatever is wrong with it, the cache may do without, or says it again. */
	if (direct_fd >= 0 && (flags & DATA_NOW || read_pieces(image, direct_fd, walk, buffer, length, flags) == 0))
		return flags & DATA_NOW ? -EAGAIN : 0;
	/* With a miss: what is in memory is not to wait for a worker. */
	if (read_ahead_due(&image->ahead, guest_off, length) && !(flags & DATA_NOW))
		read_ahead_ask(&image->ahead, image->image->data_fd, map);
	return read_pieces(image, image->image->data_fd, walk, buffer, length, flags & ~DATA_DIRECT);
}

/* What a recovery could not write yet is put over what was read. */
static void patch(const struct redo_overlay *overlay, const struct image_map *map, uint8_t *buffer, size_t length,
                  uint64_t guest_off)
{
	struct map_walk walk = map_walk_begin(map, guest_off, length);
	uint64_t host_off;
	size_t n;

	for (; map_walk_next(&walk, &host_off, &n); buffer += n)
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

/* As much as there is, waiting for it. */
static ssize_t read_wait(int fd, uint8_t *buffer, size_t length, uint64_t off)
{
	size_t done = 0;

	while (done < length) {
		ssize_t n = store.io->pread(store.io, fd, buffer + done, length - done, off + done);

		if (n < 0)
			return done ? (ssize_t)done : n;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

static ssize_t read_plain(struct open_image *image, uint8_t *buffer, size_t length, uint64_t off, int flags)
{
	int fd = image->image->data_fd, direct_fd = direct_read_fd(image, NULL, buffer, length, off, flags);
	ssize_t n;

	if (direct_fd >= 0 && flags & DATA_NOW)
		return -EAGAIN;
	if (direct_fd >= 0 && read_wait(direct_fd, buffer, length, off) == (ssize_t)length)
		return (ssize_t)length;
	n = host_read_now(&image->host, fd, buffer, length, off);
	return n >= 0 || flags & DATA_NOW ? n : read_wait(fd, buffer, length, off);
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
static void fetch_edges(int fd, struct map_walk walk)
{
	uint64_t host_off;
	size_t n;

	while (map_walk_next(&walk, &host_off, &n)) {
		if (host_off % HOST_PAGE)
			posix_fadvise(fd, (off_t)host_off, 1, POSIX_FADV_WILLNEED);
		if ((host_off + n) % HOST_PAGE)
			posix_fadvise(fd, (off_t)(host_off + n), 1, POSIX_FADV_WILLNEED);
	}
}

static int write_mapped(struct open_image *image, int fd, const struct image_map *map, const uint8_t *buffer,
                        size_t length, uint64_t guest_off)
{
	struct map_walk walk = map_walk_begin(map, guest_off, length);
	uint64_t host_off;
	int ret = 0;
	size_t n;

	if (!image->host.in_memory)
		fetch_edges(fd, walk);
	for (; ret == 0 && map_walk_next(&walk, &host_off, &n); buffer += n)
		ret = write_all(fd, buffer, n, host_off);
	return ret;
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
	ret = write_mapped(image, fd, live->map, buffer, length, guest_off);
	if (ret < 0)
		mirror_fail(live->mirror, ret);
	else
		ret = mirror_repeat(live->mirror, &hold, write_again, &write);
	mirror_release(live->mirror, &hold);
	return ret;
}

/* Through the host's cache. live: of a bundle. */
static ssize_t write_cached(struct open_image *image, int fd, const struct live_map *live, const uint8_t *buffer,
                            size_t length, uint64_t off, int flags)
{
	ssize_t ret;

	if (!(flags & DATA_NOW))
		write_gate_begin_cached(&image->gate);
	else if (!write_gate_begin_cached_now(&image->gate))
		return -EAGAIN;
	if (!live)
		ret = write_wait(fd, buffer, length, off);
	else if (live->mirror && mirror_covers(live->mirror, off, length))
		ret = write_mirrored(image, fd, live, buffer, length, off, flags);
	else
		ret = write_mapped(image, fd, live->map, buffer, length, off);
	write_gate_end_cached(&image->gate);
	return ret;
}

static ssize_t write_direct(int fd, const struct live_map *live, const uint8_t *buffer, size_t length, uint64_t off)
{
	struct map_walk walk;
	ssize_t ret = 0;
	size_t n;

	if (!live)
		return write_wait(fd, buffer, length, off);
	walk = map_walk_begin(live->map, off, length);
	for (; ret == 0 && map_walk_next(&walk, &off, &n); buffer += n)
		ret = write_all(fd, buffer, n, off);
	return ret;
}

/* Many small pieces are better left to the cache, which puts them in the order of the host. */
static size_t pieces(const struct image_map *map, uint64_t off, size_t length)
{
	return image_map_find(map, off + length - 1) - image_map_find(map, off) + 1;
}

int data_direct_write_fd(const struct open_image *image, const struct live_map *live, const uint8_t *buffer,
                         size_t length, uint64_t off)
{
	int fd = direct_file_write_fd(&image->direct);

	if (fd < 0 || (live && live->mirror && mirror_covers(live->mirror, off, length)))
		return -1;
	if (live && pieces(live->map, off, length) > DIRECT_PIECES_MAX)
		return -1;
	return direct_file_fits(&image->direct, live ? live->map : NULL, buffer, off, length) ? fd : -1;
}

/* Within the size of a bundle. */
static ssize_t write_either_way(struct open_image *image, int fd, const struct live_map *live, const uint8_t *buffer,
                                size_t length, uint64_t off, int flags)
{
	int direct_fd = flags & DATA_DIRECT ? data_direct_write_fd(image, live, buffer, length, off) : -1;
	ssize_t ret;

	if (direct_fd >= 0 && flags & DATA_NOW)
		return -EAGAIN;
	if (direct_fd >= 0 && write_gate_begin_direct(&image->gate)) {
		ret = write_direct(direct_fd, live, buffer, length, off);
		write_gate_end_direct(&image->gate);
		if (ret != -EINVAL) /* aligned otherwise than the host wants it, whatever it has said */
			return ret;
	}
	return write_cached(image, fd, live, buffer, length, off, flags);
}

static ssize_t write_bundle(struct open_image *image, int fd, const uint8_t *buffer, size_t length, uint64_t guest_off,
                            int flags)
{
	struct live_map *live = map_borrow(image);
	uint64_t end = guest_off + length;
	ssize_t ret;

	while (end > image_map_size(live->map)) {
		map_return(image, live);
		ret = flags & DATA_NOW ? -EAGAIN : resize_grow_to(image, end);
		if (ret < 0)
			return ret;
		live = map_borrow(image);
	}
	ret = write_either_way(image, fd, live, buffer, length, guest_off, flags);
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
	if ((flags & DATA_NOW) && (flags & DATA_SYNC || !image->host.in_memory))
		return -EAGAIN;
	if (image->bundle)
		ret = write_bundle(image, fd, buffer, length, guest_off, flags);
	else
		ret = write_either_way(image, fd, NULL, buffer, length, guest_off, flags);
	/* Not with the write itself: how that fails, and how the flush, which is remembered, are two things. */
	if (ret >= 0 && (flags & DATA_SYNC)) {
		int synced = open_image_sync(image, true);

		ret = synced < 0 ? synced : ret;
	}
	return ret;
}

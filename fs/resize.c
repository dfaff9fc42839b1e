/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/resize.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "fs/log.h"
#include "fs/mirror.h"
#include "fs/store.h"
#include "mapdb/cleanup.h"
#include "mapdb/host_space.h"

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* Rounds up; values are below IMAGE_MAP_OFF_MAX, so nothing overflows uint64_t. */
static uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

static int data_length(int fd, uint64_t *length)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return -errno;
	*length = (uint64_t)status.st_size;
	return 0;
}

/* Whoever was just opening the bundle when it was removed was not seen by who did that. */
static bool was_removed(const struct open_image *image)
{
	struct stat status;

	return fstat(image->image->bundle_fd, &status) == 0 && status.st_nlink == 0;
}

/* The database of a bundle for one change; an orphan has none. -EBUSY: somebody else uses it; before anything is done,
 * so that it can be tried again and again. Under image->change. */
static int open_db(struct open_image *image, struct map_db **db)
{
	int ret;

	*db = NULL;
	if (image->orphan)
		return 0;
	ret = image_db_open(image->image, MAP_DB_NO_WAIT, db);
	if (ret == -ENOENT && was_removed(image)) {
		image->orphan = true;
		return 0;
	}
	if (ret == 0)
		ret = map_db_look_alone(*db);
	if (ret < 0)
		map_db_close(steal_pointer(db));
	return ret;
}

/* The current map. Under image->change nobody replaces it, so it needs no borrowing. */
static struct image_map *current_map(struct open_image *image)
{
	return atomic_load(&image->current.live)->map;
}

static int save_map(struct open_image *image, struct map_db **db, const struct image_map *map)
{
	int ret = *db ? map_db_resize(db, current_map(image), map) : 0;

	if (ret == -EINPROGRESS)
		open_image_in_doubt(image, "served with the smaller of two sizes");
	return ret;
}

/* Commits map and makes it the current one. Under image->change. After -EINPROGRESS either may be the one that is found
 * when the image is opened again, so the smaller one is served: nothing that is written by it can be lost. */
static int change_map(struct open_image *image, struct map_db **db, struct image_map *map)
{
	struct live_map *live = live_map_new(map);
	int ret = live ? save_map(image, db, map) : -ENOMEM;

	if (ret < 0 && (ret != -EINPROGRESS || image_map_size(map) > image_map_size(current_map(image)))) {
		live_map_free(live);
		return ret;
	}
	atomic_store(&image->undo_dropped, true);
	map_swap(image, live);
	return ret;
}

static uint64_t last_host_end(const struct image_map *map)
{
	struct extent last;

	if (image_map_count(map) == 0)
		return 0;
	last = image_map_get(map, image_map_count(map) - 1);
	return last.host_off + last.length;
}

/* Host space [host_off, host_off + length) that a map is about to name: there, and reading as zeros. */
static int prepare_space(struct open_image *image, uint64_t host_off, uint64_t length)
{
	int fd = atomic_load(&image->write_fd), ret;
	uint64_t end, old_length;

	if (__builtin_add_overflow(host_off, length, &end) || end > IMAGE_MAP_OFF_MAX)
		return -EFBIG;
	ret = data_length(fd, &old_length);
	if (ret == 0 && end > old_length)
		ret = store.io->ftruncate(store.io, fd, end); /* -EFBIG: more than the host's files can be */
	if (ret == 0 && host_off < old_length)
		ret = store.io->fallocate(store.io, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, host_off,
		                          MIN(length, old_length - host_off));
	/* Old bytes must not come back under a map that names the space. */
	return ret == 0 ? open_image_sync(image, true) : ret;
}

/* An image of odd size ends within a unit. The rest of that unit is free on the host too, as no extent can start there.
 */
static int grow_to_unit(struct open_image *image, struct image_map **map, uint64_t size)
{
	uint64_t old_size = image_map_size(*map), end = MIN(size, round_up(old_size, IMAGE_MAP_UNIT));
	uint64_t host_off = last_host_end(*map);
	struct image_map *grown;
	int ret;

	if (end == old_size)
		return 0;
	ret = prepare_space(image, host_off, end - old_size);
	if (ret == 0)
		ret = image_map_resize(*map, end, host_off, &grown);
	if (ret < 0)
		return ret;
	image_map_unref(*map);
	*map = grown;
	return 0;
}

/* Where new guest space goes: past everything, and if possible right behind the image's last byte. */
static uint64_t growth_host_off(const struct image_map *map, uint64_t data_end)
{
	uint64_t guest_off = image_map_size(map), end = MAX(image_map_host_end(map), data_end);

	if (end == last_host_end(map))
		return end;
	/* Aligned to the host's blocks as the guest is, so that what the guest discards there can be given back. */
	return round_up(end, HOST_BLOCK) + guest_off % HOST_BLOCK;
}

static int grow_by_units(struct open_image *image, struct image_map **map, uint64_t size)
{
	uint64_t old_size = image_map_size(*map), host_off, data_end;
	struct image_map *grown;
	int ret;

	if (size == old_size)
		return 0;
	ret = data_length(atomic_load(&image->write_fd), &data_end);
	if (ret < 0)
		return ret;
	host_off = growth_host_off(*map, data_end);
	ret = prepare_space(image, host_off, size - old_size);
	if (ret == 0)
		ret = image_map_resize(*map, size, host_off, &grown);
	if (ret < 0)
		return ret;
	image_map_unref(*map);
	*map = grown;
	return 0;
}

static int fallocate_mapped(int fd, const struct image_map *map, int mode, uint64_t guest_off, uint64_t end)
{
	int ret = 0;

	while (ret == 0 && guest_off < end) {
		struct extent extent;

		image_map_lookup(map, guest_off, end - guest_off, &extent);
		ret = store.io->fallocate(store.io, fd, mode | FALLOC_FL_KEEP_SIZE, extent.host_off, extent.length);
		guest_off += extent.length;
	}
	return ret;
}

/* What fallocate() wants of the guest's bytes from an offset on to the new end. */
struct allocation {
	int mode;
	uint64_t guest_off;
};

/* wanted: NULL for a hole. Before the new size is committed: the host may refuse. */
static int grow_bundle(struct open_image *image, struct map_db **db, uint64_t size, const struct allocation *wanted)
{
	struct image_map *map = image_map_ref(current_map(image));
	int fd = atomic_load(&image->write_fd);
	uint64_t old_length;
	int ret = data_length(fd, &old_length);

	if (ret == 0)
		ret = grow_to_unit(image, &map, size);
	if (ret == 0)
		ret = grow_by_units(image, &map, size);
	if (ret == 0 && wanted)
		ret = fallocate_mapped(fd, map, wanted->mode,
		                       MAX(wanted->guest_off, image_map_size(current_map(image))), size);
	if (ret == 0)
		ret = change_map(image, db, map);
	if (ret < 0 && ret != -EINPROGRESS) {
		uint64_t needed = MAX(old_length, image_map_host_end(current_map(image)));

		/* Space that nothing names; the next attempt would otherwise go past it. */
		(void)store.io->ftruncate(store.io, fd, needed);
	}
	image_map_unref(map);
	return ret;
}

static int extent_by_host_off(const void *left, const void *right)
{
	const struct extent *a = left, *b = right;

	return a->host_off < b->host_off ? -1 : a->host_off > b->host_off;
}

/* The host ranges of [size, old size) in host order, neighbours joined. Returns their number, 0 also without memory. */
static size_t freed_ranges(const struct image_map *map, uint64_t size, struct extent **out)
{
	size_t count = image_map_count(map), first = count, joined = 0;
	struct extent *ranges;

	while (first > 0 && image_map_get(map, first - 1).guest_off + image_map_get(map, first - 1).length > size)
		first--;
	ranges = calloc(count - first + 1, sizeof(*ranges));
	*out = ranges;
	if (!ranges)
		return 0;
	for (size_t i = first; i < count; i++) {
		uint64_t from = MAX(image_map_get(map, i).guest_off, size);

		image_map_lookup(map, from, image_map_size(map) - from, &ranges[i - first]);
	}
	qsort(ranges, count - first, sizeof(*ranges), extent_by_host_off);
	for (size_t i = 0; i < count - first; i++) {
		struct extent *last = joined ? &ranges[joined - 1] : NULL;

		if (last && last->host_off + last->length == ranges[i].host_off)
			last->length += ranges[i].length;
		else
			ranges[joined++] = ranges[i];
	}
	return joined;
}

/* Gives back what the smaller map does not name any more. What cannot be given back is only wasted. */
static void release_space(int fd, const struct image_map *map, const struct extent *freed, size_t count)
{
	uint64_t end = image_map_host_end(map), length;

	if (data_length(fd, &length) == 0 && length > end)
		(void)store.io->ftruncate(store.io, fd, end);
	for (size_t i = 0; i < count; i++) {
		uint64_t from = round_up(freed[i].host_off, HOST_BLOCK);
		uint64_t to = MIN(freed[i].host_off + freed[i].length, end) / HOST_BLOCK * HOST_BLOCK;

		if (from < to)
			(void)store.io->fallocate(store.io, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from,
			                          to - from);
	}
}

static int shrink_bundle(struct open_image *image, struct map_db **db, uint64_t size)
{
	struct image_map *smaller;
	struct extent *freed;
	size_t count = freed_ranges(current_map(image), size, &freed);
	int ret = image_map_resize(current_map(image), size, 0, &smaller);

	if (ret == 0) {
		ret = change_map(image, db, smaller);
		if (ret == 0)
			release_space(atomic_load(&image->write_fd), smaller, freed, count);
		image_map_unref(smaller);
	}
	free(freed);
	return ret;
}

/* Under image->change. */
static int change_size(struct open_image *image, uint64_t size, const struct allocation *wanted)
{
	bool grow = size > image_map_size(current_map(image));
	struct map_db *db = NULL;
	int ret = image->in_doubt ? -EIO : open_db(image, &db);

	if (ret == 0)
		ret = grow ? grow_bundle(image, &db, size, wanted) : shrink_bundle(image, &db, size);
	map_db_close(db);
	node_bundle_size_forget(image->node);
	return ret;
}

static int resize_bundle(struct open_image *image, uint64_t size, bool may_shrink, const struct allocation *wanted)
{
	uint64_t old_size;
	int ret = 0;

	if (size > IMAGE_MAP_OFF_MAX)
		return -EFBIG;
	open_image_lock(image);
	old_size = image_map_size(current_map(image));
	if (size > old_size || (size < old_size && may_shrink))
		ret = change_size(image, size, wanted);
	pthread_mutex_unlock(&image->change);
	return ret == -EINPROGRESS ? -EIO : ret;
}

int resize_image(struct open_image *image, uint64_t size)
{
	int fd = atomic_load(&image->write_fd);

	if (fd < 0)
		return -EROFS;
	return image->bundle ? resize_bundle(image, size, true, NULL) : store.io->ftruncate(store.io, fd, size);
}

int resize_grow_to(struct open_image *image, uint64_t size)
{
	return resize_bundle(image, size, false, NULL);
}

/* The guest is about to give up bytes that an undo would bring back. Once is enough: while the image is open nothing
 * records another one. */
static int drop_undo(struct open_image *image)
{
	struct map_db *db;
	int ret = 0;

	if (!image->image->state.undo_recorded || atomic_load(&image->undo_dropped))
		return 0;
	/* It is valid only for the ctime of the data file at the opening, if not for an earlier one, and nobody stamps
	 * another while the image is open: once a later one is on the disk, it has ended for good. To delete it needs
	 * room, which a guest that discards may have to make first. */
	if (atomic_load(&image->ctime_durable))
		return 0;
	open_image_lock(image);
	if (!atomic_load(&image->undo_dropped)) {
		ret = open_db(image, &db);
		if (ret == 0 && db) {
			ret = map_db_drop_undo(db);
			map_db_close(db);
		}
	}
	if (ret == 0)
		atomic_store(&image->undo_dropped, true);
	pthread_mutex_unlock(&image->change);
	return ret;
}

/* One change of the allocation, for the old place of a window and for the new one. */
struct mirrored_fallocate {
	int fd, mode;
};

static int fallocate_again(void *context, uint64_t guest_off, uint64_t host_off, uint64_t length)
{
	const struct mirrored_fallocate *call = context;

	return store.io->fallocate(store.io, call->fd, call->mode | FALLOC_FL_KEEP_SIZE, host_off, length);
}

static int fallocate_live(int fd, const struct live_map *live, int mode, uint64_t guest_off, uint64_t end)
{
	struct mirrored_fallocate call = {fd, mode};
	struct mirror_hold hold;
	int ret;

	end = MIN(end, image_map_size(live->map));
	if (guest_off >= end || !live->mirror || !mirror_covers(live->mirror, guest_off, end - guest_off))
		return fallocate_mapped(fd, live->map, mode, guest_off, end);
	mirror_hold(live->mirror, &hold, guest_off, end - guest_off);
	ret = fallocate_mapped(fd, live->map, mode, guest_off, end);
	if (ret < 0)
		mirror_fail(live->mirror, ret);
	else
		ret = mirror_repeat(live->mirror, &hold, fallocate_again, &call);
	mirror_release(live->mirror, &hold);
	return ret;
}

int resize_fallocate(struct open_image *image, int mode, uint64_t guest_off, uint64_t length)
{
	const int supported = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
	int fd = atomic_load(&image->write_fd), ret = 0;
	struct live_map *live;
	uint64_t end;

	if (mode & ~supported)
		return -EOPNOTSUPP;
	if (fd < 0)
		return -EROFS;
	if (__builtin_add_overflow(guest_off, length, &end) || end > IMAGE_MAP_OFF_MAX)
		return -EFBIG;
	if (!image->bundle)
		return store.io->fallocate(store.io, fd, mode, guest_off, length);

	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		ret = drop_undo(image);
	if (ret < 0)
		return ret;
	live = map_borrow(image);
	ret = fallocate_live(fd, live, mode, guest_off, end);
	map_return(image, live);
	/* The kernel lets nobody else make the image larger meanwhile. */
	if (ret == 0 && !(mode & FALLOC_FL_KEEP_SIZE))
		ret = resize_bundle(image, end, false, &(struct allocation){mode, guest_off});
	return ret;
}

static off_t seek_mapped(int fd, const struct image_map *map, uint64_t guest_off, bool want_data)
{
	struct host_stretch stretch = {0};
	uint64_t size = image_map_size(map);

	if (guest_off >= size)
		return -ENXIO;
	while (guest_off < size) {
		struct extent extent;
		int ret;

		image_map_lookup(map, guest_off, size - guest_off, &extent);
		/* One question to the host answers for all extents within the same stretch. */
		if (extent.host_off < stretch.start || extent.host_off >= stretch.end) {
			ret = host_stretch_at(fd, extent.host_off, &stretch);
			if (ret < 0)
				return ret;
		}
		if (stretch.data == want_data)
			return (off_t)guest_off;
		guest_off += MIN(extent.length, stretch.end - extent.host_off);
	}
	return want_data ? -ENXIO : (off_t)size;
}

static off_t seek_all_data(const struct image_map *map, uint64_t guest_off, bool want_data)
{
	uint64_t size = image_map_size(map);

	if (guest_off >= size)
		return -ENXIO;
	return (off_t)(want_data ? guest_off : size);
}

off_t resize_seek(struct open_image *image, uint64_t guest_off, int whence)
{
	int fd = image->image->data_fd;
	struct live_map *live;
	off_t found;

	if (guest_off > IMAGE_MAP_OFF_MAX)
		return -ENXIO;
	if (!image->bundle) {
		found = lseek(fd, (off_t)guest_off, whence);
		return found < 0 ? -errno : found;
	}
	live = map_borrow(image);
	if (image->image->overlay) /* may have bytes where the host has a hole */
		found = seek_all_data(live->map, guest_off, whence == SEEK_DATA);
	else
		found = seek_mapped(fd, live->map, guest_off, whence == SEEK_DATA);
	map_return(image, live);
	return found;
}

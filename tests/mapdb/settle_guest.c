/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "settle_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "mapdb/host_space.h"
#include "scenario.h"

#define SEGMENT_MAX 16u
#define THRESHOLD   (9 * SECTOR)
#define BATCH       (24u << 10)

struct guest guest;
const struct settle_options settle_test_options = {.threshold = THRESHOLD, .batch_bytes = BATCH, .text = "test"};

static size_t operations(void)
{
	return guest.record ? io_record_count(guest.record) : 0;
}

static uint64_t sector_bytes(unsigned int sector)
{
	return sector == SECTORS - 1 ? SIZE - sector * SECTOR : SECTOR;
}

static void fill_sector(uint8_t *bytes, uint64_t value)
{
	for (size_t i = 0; i < SECTOR; i += sizeof value)
		memcpy(bytes + i, &value, sizeof value);
}

static bool in_window(uint64_t guest_off, uint64_t *host_off)
{
	for (size_t i = 0; i < guest.window_count; i++) {
		const struct extent *window = &guest.windows[i];

		if (guest_off >= window->guest_off && guest_off - window->guest_off < window->length) {
			*host_off = window->host_off + (guest_off - window->guest_off);
			return true;
		}
	}
	return false;
}

/* One grain, wherever it belongs now. */
void guest_put_grain(unsigned int sector, uint64_t value, bool discard)
{
	static uint8_t bytes[8 * SECTOR];
	uint64_t off = (uint64_t)sector * SECTOR, length = 0, places[2], second;
	struct extent extent;
	int count = 1, fd = guest.image->data_fd;

	for (unsigned int i = sector; i < sector + guest.grain && i < SECTORS; i++) {
		fill_sector(bytes + (i - sector) * SECTOR, value);
		length += sector_bytes(i);
		guest.sectors[i] = discard ? 0 : value;
	}
	image_map_lookup(guest.map, off, 1, &extent);
	places[0] = extent.host_off;
	if (in_window(off, &second))
		places[count++] = second;
	for (int i = 0; i < count; i++) {
		if (discard)
			CHECK_IS(guest.base->fallocate(guest.base, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			                               places[i], length),
			         0);
		else
			CHECK_IS(io_pwrite_full(guest.base, fd, bytes, length, places[i]), 0);
	}
}

static bool waits(unsigned int sector)
{
	uint64_t off = (uint64_t)sector * SECTOR;

	return guest.exclusive && off + guest.grain * SECTOR > guest.copy_off &&
	       off < guest.copy_off + guest.copy_length;
}

static void guest_write(bool discard)
{
	CHECK(guest.event_count < EVENTS_MAX);
	struct event *event = &guest.events[guest.event_count++];
	unsigned int first = (unsigned int)random_below(SECTORS / guest.grain) * guest.grain;
	unsigned int count = guest.grain * (1 + (unsigned int)random_below(24 / guest.grain));

	*event = (struct event){.begun = operations(), .first = first, .value = discard ? 0 : guest.event_count};
	while (event->count < count && first + event->count < SECTORS && !waits(first + event->count)) {
		unsigned int sector = first + event->count;
		uint64_t off = (uint64_t)sector * SECTOR;

		event->count += guest.grain;
		if (off + guest.grain * SECTOR > guest.copy_off && off < guest.copy_off + guest.copy_length)
			guest.written = true;
		guest_put_grain(sector, event->value, discard);
	}
	event->done = operations();
	if (event->count == 0)
		guest.event_count--;
}

static void guest_flush(void)
{
	CHECK(guest.event_count < EVENTS_MAX);
	struct event *event = &guest.events[guest.event_count++];

	*event = (struct event){.begun = operations()};
	CHECK_IS(guest.base->fdatasync(guest.base, guest.image->data_fd), 0);
	event->done = operations();
}

static void guest_acts(void)
{
	if (!guest.map || !guest.activity || guest.acting || random_below(guest.activity))
		return;
	guest.acting = true;
	switch (random_below(4)) {
	case 0:
		guest_flush();
		break;
	case 1:
		guest_write(true);
		break;
	default:
		guest_write(false);
	}
	guest.acting = false;
}

/* ---- the guest's io: it may act before and after every call of the pass ---- */

static int guest_open(const struct io *io, int dir_fd, const char *path, int flags, mode_t mode)
{
	return guest.base->open(guest.base, dir_fd, path, flags, mode);
}

static int guest_close(const struct io *io, int fd)
{
	return guest.base->close(guest.base, fd);
}

static ssize_t guest_pread(const struct io *io, int fd, void *buffer, size_t length, uint64_t off)
{
	ssize_t n = guest.base->pread(guest.base, fd, buffer, length, off);

	guest_acts();
	return n;
}

static ssize_t guest_pwrite(const struct io *io, int fd, const void *buffer, size_t length, uint64_t off)
{
	ssize_t n = guest.base->pwrite(guest.base, fd, buffer, length, off);

	guest_acts();
	return n;
}

static int guest_fdatasync(const struct io *io, int fd)
{
	guest_acts();
	int rc = guest.base->fdatasync(guest.base, fd);
	guest_acts();
	return rc;
}

static int guest_fsync(const struct io *io, int fd)
{
	int rc = guest.base->fsync(guest.base, fd);

	guest_acts();
	return rc;
}

static int guest_ftruncate(const struct io *io, int fd, uint64_t size)
{
	return guest.base->ftruncate(guest.base, fd, size);
}

static int guest_fallocate(const struct io *io, int fd, int mode, uint64_t off, uint64_t length)
{
	int rc = guest.base->fallocate(guest.base, fd, mode, off, length);

	guest_acts();
	return rc;
}

static int guest_unlink(const struct io *io, int dir_fd, const char *name, int flags)
{
	int rc = guest.base->unlink(guest.base, dir_fd, name, flags);

	guest_acts();
	return rc;
}

static const struct io guest_io = {
        .open = guest_open,
        .close = guest_close,
        .pread = guest_pread,
        .pwrite = guest_pwrite,
        .fdatasync = guest_fdatasync,
        .fsync = guest_fsync,
        .ftruncate = guest_ftruncate,
        .fallocate = guest_fallocate,
        .unlink = guest_unlink,
};

/* ---- the hooks of the pass ---- */

static int mirror(void *context, const struct extent *windows, size_t count)
{
	CHECK(count > 0 && count <= 256 && guest.window_count == 0);
	guest_acts();
	memcpy(guest.windows, windows, count * sizeof *windows);
	guest.window_count = count;
	guest_acts();
	return 0;
}

static void unmirror(void *context)
{
	CHECK(guest.window_count > 0);
	guest.window_count = 0;
	guest_acts();
}

static void copy_begin(void *context, uint64_t guest_off, uint64_t length, bool exclusive)
{
	uint64_t host_off;

	CHECK(in_window(guest_off, &host_off) && in_window(guest_off + length - 1, &host_off));
	guest_acts();
	guest.copy_off = guest_off;
	guest.copy_length = length;
	guest.exclusive = exclusive;
	guest.written = false;
	guest_acts();
}

static int copy_end(void *context)
{
	bool written = guest.written;

	CHECK(!(written && guest.exclusive));
	guest.copy_length = 0;
	guest.exclusive = false;
	guest_acts();
	return written;
}

static int commit(void *context, const struct image_map *old, const struct image_map *map, const struct run_record *run,
                  struct settle_record *record)
{
	return map_db_settle(&guest.image->db, old, map, run, record);
}

static void replace(void *context, struct image_map *map)
{
	guest_acts();
	image_map_unref(guest.map);
	guest.map = image_map_ref(map);
	guest.window_count = 0;
	guest_acts();
}

static bool stop(void *context)
{
	guest_acts();
	return guest.stop && random_below(guest.stop) == 0;
}

static bool busy(void *context)
{
	return false;
}

static const struct settle_hooks hooks = {
        .mirror = mirror,
        .unmirror = unmirror,
        .copy_begin = copy_begin,
        .copy_end = copy_end,
        .commit = commit,
        .replace = replace,
        .stop = stop,
        .busy = busy,
};

/* ---- the image ---- */

/* A plain image of numbered sectors, some of them holes, then a bundle with a map of shuffled segments. */
static void make_image(int dir_fd)
{
	struct map_move moves[SECTORS];
	unsigned int order[SECTORS], count = 0, lengths[SECTORS], starts[SECTORS];
	uint8_t bytes[SECTOR];
	struct image *image;
	struct image_map *map;
	int fd = openat(dir_fd, NAME, O_RDWR | O_CREAT | O_EXCL, 0600);

	CHECK(fd >= 0);
	CHECK_IS(ftruncate(fd, SIZE), 0);
	for (unsigned int i = 0; i < SECTORS; i++) {
		bool hole = i / 24 % 3 == 1;
		guest.sectors[i] = hole ? 0 : UINT64_C(1) << 40 | i;
		fill_sector(bytes, guest.sectors[i]);
		if (!hole)
			CHECK_IS(pwrite(fd, bytes, sector_bytes(i), i * SECTOR), sector_bytes(i));
	}
	close(fd);
	unsigned int end =
	        (SECTORS - 1) / guest.grain * guest.grain; /* the odd one stays: it has none to change with */

	for (unsigned int pos = 0; pos < end; count++) {
		unsigned int length = guest.grain * (1 + (unsigned int)random_below(SEGMENT_MAX / guest.grain));

		lengths[count] = length < end - pos ? length : end - pos;
		starts[count] = pos;
		order[count] = count;
		pos += lengths[count];
	}
	for (unsigned int i = count; i > 1; i--) {
		unsigned int j = (unsigned int)random_below(i), swap = order[i - 1];
		order[i - 1] = order[j];
		order[j] = swap;
	}
	uint64_t sectors[SECTORS], new_off = 0;
	memcpy(sectors, guest.sectors, sizeof sectors);
	for (unsigned int i = 0; i < count; i++) {
		unsigned int from = order[i];

		moves[i] =
		        (struct map_move){new_off, (uint64_t)starts[from] * SECTOR, (uint64_t)lengths[from] * SECTOR};
		memcpy(&guest.sectors[new_off / SECTOR], &sectors[starts[from]], lengths[from] * sizeof sectors[0]);
		new_off += moves[i].length;
	}
	CHECK_IS(image_open(&io_fast, dir_fd, NAME, IMAGE_EXCLUSIVE, 0, 2000, &image), 0);
	CHECK_IS(image_map_permute(image->map, moves, count, &map), 0);
	CHECK_IS(image_begin(image), 0);
	CHECK_IS(map_db_put_map(image->db, map), 0);
	CHECK_IS(image_commit(image), 0);
	image_map_unref(map);
	image_close(image);
}

/* Reads what the guest would see: the value of every sector. A sector with two values fails. */
void settle_read_sectors(const struct io *io, int dir_fd, uint64_t *sectors)
{
	static uint8_t bytes[SECTORS * SECTOR];
	struct image *image;

	CHECK_IS(image_open(io, dir_fd, NAME, IMAGE_SHARED, 0, 0, &image), 0);
	CHECK(!image->overlay && image->bundle_fd >= 0);
	CHECK_IS(image->state.size, SIZE);
	CHECK_IS(image_read(image, bytes, SIZE, 0), 0);
	image_close(image);
	for (unsigned int i = 0; i < SECTORS; i++) {
		uint8_t expected[SECTOR];

		memcpy(&sectors[i], bytes + i * SECTOR, sizeof sectors[i]);
		fill_sector(expected, sectors[i]);
		CHECK(!memcmp(expected, bytes + i * SECTOR, sector_bytes(i)));
	}
}

void settle_check_seen(int dir_fd)
{
	uint64_t found[SECTORS];

	settle_read_sectors(&io_fast, dir_fd, found);
	for (unsigned int i = 0; i < SECTORS; i++) {
		check_context("sector %u", i);
		CHECK_IS(found[i], guest.sectors[i]);
	}
	check_context("%s", "");
}

void settle_check_cut(int dir_fd)
{
	struct image *image;
	struct stat status;

	CHECK_IS(image_open(&io_fast, dir_fd, NAME, IMAGE_SHARED, 0, 0, &image), 0);
	CHECK_IS(fstat(image->data_fd, &status), 0);
	CHECK_IS(status.st_size, image_map_host_end(image->map));
	image_close(image);
}

void settle_check_nothing_leaked(int dir_fd)
{
	struct image *image;
	struct host_index *index;
	struct extent found;

	CHECK_IS(image_open(&io_fast, dir_fd, NAME, IMAGE_SHARED, 0, 0, &image), 0);
	CHECK_IS(host_index_new(image->map, &index), 0);
	for (off_t off = 0; (off = lseek(image->data_fd, off, SEEK_DATA)) >= 0; off += 4096) {
		off -= off % 4096;
		CHECK(host_index_lookup(index, (uint64_t)off, &found) || found.length < 4096);
	}
	host_index_free(index);
	image_close(image);
}

void settle_open(const struct io *io, int dir_fd)
{
	CHECK_IS(image_open(io, dir_fd, NAME, IMAGE_EXCLUSIVE, 0, 2000, &guest.image), 0);
	guest.map = image_map_ref(guest.image->map);
	guest.window_count = 0;
	guest.copy_length = 0;
	guest.exclusive = guest.acting = false;
}

void settle_close(void)
{
	guest.window_count = 0;
	image_map_unref(guest.map);
	image_close(guest.image);
	guest.image = NULL;
	guest.map = NULL;
}

/* A pass, to the end or until it fails, or until it was interrupted after a random step. io is what the pass itself
 * goes through. */
int settle_run_pass(const struct io *io, bool interrupt, bool identity, struct settle_progress *progress)
{
	struct settle_options options = settle_test_options;
	const struct settle_limits limits = {0};
	struct settle *settle;

	options.identity = identity;
	int rc = settle_new(io, guest.image->data_fd, guest.image->db, &hooks, &options, &settle);

	*progress = (struct settle_progress){0};
	if (rc < 0)
		return rc;
	do {
		rc = settle_step(settle, guest.map, &limits, progress);
		guest_acts();
	} while (rc == 0 && !progress->finished && !(interrupt && random_below(3) == 0));
	settle_free(settle);
	return rc;
}

/* What is left after a crash can be settled to the end by somebody else. */
void settle_take_up(int dir_fd, const uint64_t *sectors)
{
	uint64_t found[SECTORS];
	struct settle_progress progress;
	unsigned int activity = guest.activity;

	guest.activity = 0;
	const struct io *base = guest.base;
	guest.base = &io_fast;
	settle_open(&io_fast, dir_fd);
	CHECK_IS(settle_run_pass(&io_fast, false, false, &progress), 0);
	CHECK(progress.finished);
	settle_close();
	settle_read_sectors(&io_fast, dir_fd, found);
	CHECK(!memcmp(found, sectors, sizeof found));
	guest.base = base;
	guest.activity = activity;
}

void settle_start(int dir_fd)
{
	empty_directory(dir_fd);
	memset(&guest, 0, sizeof guest);
	guest.io = guest_io;
	guest.grain = random_below(2) ? 1 : 8;
	make_image(dir_fd);
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: whatever the map is, a discard makes zeros of nothing but what it was told to, and gives back every block of
 * the host of which no live byte is; it gives way to who waits for the image, stops when it is asked to, and undo is
 * impossible before anything is given back.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "mapdb/image_discard.h"
#include "scramble.h"

#define BLOCK  4096u
#define SECTOR 512u
#define SIZE   (96 * BLOCK)
#define ROUNDS 200

static int dir_fd;

/* ---- a host that is looked at ---- */

static unsigned int punches;
static int punch_error;
static void (*at_punch)(void);

static int watched_fallocate(const struct io *io, int fd, int mode, uint64_t off, uint64_t length)
{
	if (!(mode & FALLOC_FL_PUNCH_HOLE))
		return io_posix.fallocate(&io_posix, fd, mode, off, length);
	CHECK_IS(mode, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
	CHECK(length > 0 && off % BLOCK == 0 && length % BLOCK == 0);
	punches++;
	if (at_punch)
		at_punch();
	return punch_error ? punch_error : io_posix.fallocate(&io_posix, fd, mode, off, length);
}

static struct io watched;

/* ---- images ---- */

static struct image *open_image(void)
{
	struct image *image;

	CHECK_IS(image_open(&watched, dir_fd, "a.img", IMAGE_EXCLUSIVE, 0, 2000, &image), 0);
	return image;
}

static void make_plain(uint8_t *bytes)
{
	random_bytes(bytes, SIZE);
	empty_directory(dir_fd);
	write_file(dir_fd, "a.img", bytes, SIZE);
}

static void read_view(const struct image *image, uint8_t *bytes)
{
	CHECK_IS(image_read(image, bytes, SIZE, 0), 0);
}

static size_t random_ranges(struct guest_range *ranges)
{
	uint64_t off = random_below(20) * SECTOR;
	size_t count = 0;

	while (off < SIZE) {
		uint64_t length = (1 + random_below(random_below(4) ? 8 : 80)) * SECTOR;

		length = length < SIZE - off ? length : SIZE - off;
		ranges[count++] = (struct guest_range){off, length};
		off += length + random_below(40) * SECTOR;
	}
	return count;
}

/* ---- only what is free, and all blocks of it ---- */

static bool is_free(const struct guest_range *ranges, size_t count, uint64_t guest_off)
{
	size_t i = guest_range_find(ranges, count, guest_off);

	return i < count && ranges[i].guest_off <= guest_off;
}

/* Sectors of the data file that some guest byte which is not free needs. */
static void find_live(const struct image *image, const struct guest_range *ranges, size_t count, bool *live)
{
	memset(live, 0, SIZE / SECTOR * sizeof *live);
	for (uint64_t off = 0; off < SIZE; off += SECTOR) {
		struct extent extent;

		image_map_lookup(image->map, off, SECTOR, &extent);
		live[extent.host_off / SECTOR] = !is_free(ranges, count, off);
	}
}

static void check_blocks(const struct image *image, const bool *live)
{
	static const uint8_t zeros[BLOCK];
	uint8_t bytes[BLOCK];

	for (uint64_t off = 0; off < SIZE; off += BLOCK) {
		bool any = false;

		for (uint64_t i = 0; i < BLOCK / SECTOR; i++)
			any |= live[off / SECTOR + i];
		CHECK_IS(io_pread_full(&io_posix, image->data_fd, bytes, BLOCK, off), 0);
		CHECK(any || !memcmp(bytes, zeros, BLOCK));
	}
}

static void discard_something(void)
{
	static uint8_t before[SIZE], after[SIZE];
	static struct guest_range ranges[SIZE / SECTOR];
	static bool live[SIZE / SECTOR];
	const struct discard_options options = {.text = "--discard"};
	struct discard_report report;
	uint64_t free_bytes = 0;

	make_plain(before);
	if (random_below(4) > 0)
		scramble(dir_fd, SIZE, (1 + random_below(24)) * SECTOR, random_below(2) * 7 * SECTOR);
	size_t count = random_ranges(ranges);
	struct image *image = open_image();
	read_view(image, before);
	find_live(image, ranges, count, live);
	CHECK_IS(image_discard(image, ranges, count, &options, &report), 0);
	CHECK(report.finished && report.allocated_after <= report.allocated_before);
	read_view(image, after);
	for (uint64_t off = 0; off < SIZE; off++) {
		bool is = is_free(ranges, count, off);

		free_bytes += is;
		CHECK(after[off] == before[off] || (is && after[off] == 0));
	}
	CHECK_IS(report.bytes_free, free_bytes);
	check_blocks(image, live);
	image_close(image);
}

/* ---- the rest of the promise ---- */

static const struct guest_range most[] = {{BLOCK, 10 * BLOCK}, {20 * BLOCK, 30 * BLOCK}, {60 * BLOCK, 20 * BLOCK}};
#define MOST (sizeof most / sizeof most[0])

static struct image *current; /* that most is being discarded of */

static int discard_most(const struct discard_options *options, struct discard_report *report)
{
	current = open_image();
	int rc = image_discard(current, most, MOST, options, report);

	image_close(current);
	return rc;
}

static void refuse_wrong_ranges(void)
{
	static uint8_t bytes[SIZE];
	static const struct guest_range wrong[][2] = {
	        {{BLOCK, BLOCK}, {BLOCK, BLOCK}},
	        {{2 * BLOCK, BLOCK}, {BLOCK, BLOCK}},
	        {{BLOCK, 2 * BLOCK}, {2 * BLOCK, BLOCK}},
	        {{BLOCK, BLOCK}, {SIZE - BLOCK, 2 * BLOCK}},
	        {{BLOCK, BLOCK}, {SIZE + BLOCK, BLOCK}},
	        {{BLOCK, 0}, {2 * BLOCK, BLOCK}},
	        {{BLOCK, BLOCK}, {3 * BLOCK, UINT64_MAX - BLOCK}},
	};
	const struct discard_options options = {0};
	struct discard_report report;

	make_plain(bytes);
	struct image *image = open_image();
	punches = 0;
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		CHECK_IS(image_discard(image, wrong[i], 2, &options, &report), -EINVAL);
	CHECK_IS(punches, 0);
	image_close(image);
}

static void check_undo_is_gone(void)
{
	struct map_state state;
	struct map_db *db;
	int fd = openat(dir_fd, "a.img", O_RDONLY | O_DIRECTORY);

	CHECK_IS(map_db_open(&io_posix, fd, MAP_DB_READ_ONLY, &db), 0);
	CHECK_IS(map_db_read_state(db, &state), 0);
	CHECK_IS(state.undo_recorded, false);
	map_db_close(db);
	close(fd);
}

static int count_run(void *context, const struct run_record *run)
{
	if (!strcmp(run->operation, "discard"))
		++*(unsigned int *)context;
	return 0;
}

static unsigned int count_runs(void)
{
	unsigned int count = 0;
	struct image *image = open_image();

	CHECK_IS(map_db_read_runs(image->db, 100, count_run, &count), 0);
	image_close(image);
	return count;
}

static void forget_undo_first(void)
{
	static uint8_t bytes[SIZE];
	const struct discard_options options = {.text = "--discard"}, dry_run = {.dry_run = true};
	struct discard_report report;
	bool kept;

	make_plain(bytes);
	scramble(dir_fd, SIZE, BLOCK, 0);
	punches = 0;
	CHECK_IS(discard_most(&dry_run, &report), 0);
	CHECK(punches == 0 && report.allocated_after < report.allocated_before);
	struct image *image = open_image();
	CHECK_IS(image_undo_kept(image, &kept), 0);
	CHECK_IS(kept, true);
	image_close(image);
	at_punch = check_undo_is_gone;
	CHECK_IS(discard_most(&options, &report), 0);
	at_punch = NULL;
	CHECK(punches > 0);
	CHECK_IS(count_runs(), 1);
}

static void pass_on_errors(void)
{
	static uint8_t bytes[SIZE], after[SIZE];
	const struct discard_options options = {0};
	struct discard_report report;

	make_plain(bytes);
	punch_error = -EOPNOTSUPP;
	CHECK_IS(discard_most(&options, &report), -EOPNOTSUPP);
	punch_error = 0;
	CHECK(!report.finished && report.allocated_after == report.allocated_before);
	struct image *image = open_image();
	read_view(image, after);
	CHECK(!memcmp(bytes, after, SIZE));
	image_close(image);
}

static bool stop_after_one(void *context, uint64_t done, uint64_t total)
{
	CHECK(done <= total);
	return punches > 0;
}

static void stop_when_asked(void)
{
	static uint8_t bytes[SIZE];
	const struct discard_options stopped = {.stop = stop_after_one}, options = {0};
	struct discard_report report;

	make_plain(bytes);
	punches = 0;
	CHECK_IS(discard_most(&stopped, &report), -ECANCELED);
	CHECK(punches == 1 && !report.finished && report.allocated_after < report.allocated_before);
	CHECK_IS(discard_most(&options, &report), 0);
	CHECK(report.finished);
}

/* Somebody else opens the file: he waits until the lease is given back. */
static void somebody_comes(void)
{
	fflush(stdout);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		close(current->data_fd); /* or the lease would outlive its holder */
		_exit(openat(dir_fd, "a.img", O_RDONLY) < 0);
	}
	while (!image_wanted(current))
		usleep(1000);
}

static void give_way(void)
{
	static uint8_t bytes[SIZE];
	const struct discard_options options = {0};
	struct discard_report report;
	int status;

	make_plain(bytes);
	struct image *image = open_image();
	bool leased = image->leased;
	image_close(image);
	punches = 0;
	at_punch = somebody_comes;
	if (leased)
		CHECK_IS(discard_most(&options, &report), -EAGAIN);
	at_punch = NULL;
	CHECK_IS(punches, leased);
	if (leased)
		CHECK(wait(&status) > 0 && status == 0);
}

int main(void)
{
	random_start();
	dir_fd = scratch_directory();
	watched = io_posix;
	watched.fallocate = watched_fallocate;
	for (unsigned int round = 0; round < ROUNDS; round++) {
		check_context("round %u", round);
		discard_something();
	}
	check_context("around it");
	refuse_wrong_ranges();
	forget_undo_first();
	pass_on_errors();
	stop_when_asked();
	give_way();
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: while a settle pass moves an image, a guest that writes, discards and flushes at every moment at which it
 * could finds what it wrote; whatever call to the host fails, nothing changes for the guest and the pass can be taken
 * up again; and when it is through the map is short, and no host block is allocated that nothing names.
 *
 * SEED=n repeats a run; ROUNDS=n makes more.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "io_fault.h"
#include "mapdb/host_space.h"
#include "mapdb/image_settle.h"
#include "scenario.h"
#include "settle_guest.h"

/* The k-th call of a pass fails; then the pass is taken up again. False if the pass ended before. */
static bool try_fault(int base_fd, int dir_fd, size_t k, enum fault_mode mode, int error)
{
	struct settle_progress progress;
	struct io_fault fault;

	empty_directory(dir_fd);
	copy_directory(base_fd, dir_fd);
	check_context("call %zu fails, mode %d, errno %d", k, mode, error);
	io_fault_init(&fault, &io_fast, SIZE_MAX, mode, error);
	settle_open(&fault.io, dir_fd);
	unsigned int descriptors = count_descriptors();
	fault.countdown = k;
	int rc = settle_run_pass(&fault.io, false, false, &progress);
	/* A failed commit is looked into again, and giving space back must not fail anything. */
	CHECK(rc < 0 || !fault.happened || progress.finished);
	if (guest.image->db)
		CHECK_IS(count_descriptors(), descriptors);
	settle_close();
	check_context("after call %zu failed, mode %d, errno %d: %d", k, mode, error, rc);
	uint64_t found[SECTORS];
	settle_read_sectors(&io_fast, dir_fd, found);
	CHECK(!memcmp(found, guest.sectors, sizeof found));
	settle_take_up(dir_fd, found);
	return fault.happened;
}

static void try_faults(int base_fd, int dir_fd)
{
	static const struct {
		enum fault_mode mode;
		int error;
	} ways[] = {{FAULT_ONCE, EIO}, {FAULT_ONCE, ENOSPC}, {FAULT_DEAD, EIO}, {FAULT_SHORT, ENOSPC}};

	settle_start(base_fd);
	guest.base = &io_fast;
	for (size_t way = 0; way < sizeof ways / sizeof ways[0]; way++)
		for (size_t k = 0; try_fault(base_fd, dir_fd, k, ways[way].mode, ways[way].error); k++)
			;
}

/* Passes that are interrupted anywhere, until one is through, with a guest that never rests. */
static void try_life(int dir_fd)
{
	struct settle_progress progress;
	bool identity = random_below(3) == 0;

	settle_start(dir_fd);
	guest.base = &io_fast;
	guest.activity = 4;
	guest.stop = (unsigned int)random_below(4);
	guest.stop = guest.stop == 1 ? 0 : guest.stop;
	do {
		guest.event_count = 0;
		settle_open(&guest.io, dir_fd);
		size_t before = image_map_count(guest.map);
		CHECK_IS(settle_run_pass(&guest.io, true, identity, &progress), 0);
		CHECK(identity || image_map_count(guest.map) <= before);
		settle_close();
		settle_check_seen(dir_fd);
		settle_check_nothing_leaked(dir_fd);
	} while (!progress.finished);
	settle_check_cut(dir_fd);
	settle_open(&guest.io, dir_fd);
	CHECK(!identity || image_map_is_identity(guest.map));
	settle_close();
}

static bool never(void *context)
{
	return false;
}

/* The same code as the tools use it: no guest. */
static void try_offline(int dir_fd)
{
	const struct settle_limits limits = {0};
	struct settle_progress progress = {0};
	struct image_settle *settle;
	struct image *image;

	settle_start(dir_fd);
	CHECK_IS(image_open(&io_fast, dir_fd, NAME, IMAGE_EXCLUSIVE, 0, 2000, &image), 0);
	CHECK(image->state.undo_recorded);
	CHECK_IS(image_settle_new(image, &settle_test_options, never, NULL, &settle), 0);
	while (!progress.finished)
		CHECK_IS(image_settle_step(settle, &limits, &progress), 0);
	CHECK(progress.bytes_left == 0 && progress.extents <= progress.extents_before);
	bool moved = progress.bytes_planned > 0;
	CHECK_IS(image->state.undo_recorded, !moved);
	CHECK_IS(progress.extents, image_map_count(image->map));
	image_settle_free(settle);
	image_close(image);
	CHECK_IS(image_open(&io_fast, dir_fd, NAME, IMAGE_EXCLUSIVE, 0, 2000, &image), 0);
	CHECK_IS(image->state.undo_recorded, !moved);
	CHECK_IS(image_map_count(image->map), progress.extents);
	image_close(image);
	settle_check_seen(dir_fd);
	settle_check_nothing_leaked(dir_fd);
	settle_check_cut(dir_fd);
}

/* The k-th call of a pass of the tools fails: as long as nothing is moved, the undo of the pass before stays valid.
 * False if the pass ended before. */
static bool fail_before_undo_goes(int base_fd, int dir_fd, size_t k, int error)
{
	struct settle_progress progress = {0};
	struct image_settle *settle = NULL;
	struct io_fault fault;
	struct image *image;
	int rc;

	check_context("call %zu fails, errno %d, with an undo", k, error);
	empty_directory(dir_fd);
	copy_directory(base_fd, dir_fd);
	io_fault_init(&fault, &io_fast, SIZE_MAX, FAULT_ONCE, error);
	CHECK_IS(image_open(&fault.io, dir_fd, NAME, IMAGE_EXCLUSIVE, 0, 2000, &image), 0);
	CHECK_IS(map_db_stamp_undo(image->db, image->data_fd), 0); /* that of the original has another ctime */
	uint64_t generation = image->state.generation;
	fault.countdown = k;
	rc = image_settle_new(image, &settle_test_options, never, NULL, &settle);
	while (rc == 0 && !progress.finished)
		rc = image_settle_step(settle, &(struct settle_limits){0}, &progress);
	image_settle_free(settle);
	bool moved = image->state.generation != generation || !image->db, valid;
	image_close(image);
	CHECK_IS(image_open(&io_fast, dir_fd, NAME, IMAGE_EXCLUSIVE, 0, 2000, &image), 0);
	CHECK_IS(map_db_undo_valid(image->db, image->data_fd, &valid), 0);
	CHECK(moved || valid);
	CHECK(!moved || image->state.generation == generation || !valid);
	image_close(image);
	check_context("%s", "");
	return fault.happened;
}

static void try_undo_kept(int base_fd, int dir_fd)
{
	static const int errors[] = {EIO, ENOSPC};

	settle_start(base_fd);
	for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
		for (size_t k = 0; fail_before_undo_goes(base_fd, dir_fd, k, errors[i]); k++)
			;
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A pass takes no less time than its rate says, whatever its batches are. */
static void try_rate(int dir_fd)
{
	const struct settle_limits limits = {.rate = 256 << 10};
	struct settle_progress progress = {0};
	struct image_settle *settle;
	int64_t begun_ns;
	struct image *image;

	settle_start(dir_fd);
	CHECK_IS(image_open(&io_fast, dir_fd, NAME, IMAGE_EXCLUSIVE, 0, 2000, &image), 0);
	begun_ns = now_ns();
	CHECK_IS(image_settle_new(image, &settle_test_options, never, NULL, &settle), 0);
	while (!progress.finished)
		CHECK_IS(image_settle_step(settle, &limits, &progress), 0);
	double seconds = (double)(now_ns() - begun_ns) / 1e9;
	/* The last piece, at most a batch here, is not waited for. */
	CHECK((seconds + 1e-3) * (double)limits.rate >=
	      (double)progress.bytes_moved - (double)settle_test_options.batch_bytes);
	image_settle_free(settle);
	image_close(image);
}

/* A host that takes its time to punch a hole. */
static struct slow_host {
	struct io io;
	int64_t punching_ns; /* of all holes */
	uint64_t longest;    /* bytes */
} slow_host;

static int punch_slowly(const struct io *io, int fd, int mode, uint64_t off, uint64_t length)
{
	int64_t begun_ns = now_ns();

	nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
	int rc = io_fast.fallocate(&io_fast, fd, mode, off, length);
	slow_host.punching_ns += now_ns() - begun_ns;
	slow_host.longest = length > slow_host.longest ? length : slow_host.longest;
	return rc;
}

/* At a rate the file is left alone for at least as long as holes are punched in it. */
static void try_pauses(int dir_fd)
{
	const struct settle_limits limits = {.rate = 1 << 30};
	struct settle_progress progress = {0};
	struct image_settle *settle;
	struct image *image;

	settle_start(dir_fd);
	slow_host = (struct slow_host){.io = io_fast};
	slow_host.io.fallocate = punch_slowly;
	CHECK_IS(image_open(&slow_host.io, dir_fd, NAME, IMAGE_EXCLUSIVE, 0, 2000, &image), 0);
	CHECK_IS(image_settle_new(image, &settle_test_options, never, NULL, &settle), 0);
	int64_t begun_ns = now_ns();
	while (!progress.finished)
		CHECK_IS(image_settle_step(settle, &limits, &progress), 0);
	CHECK(now_ns() - begun_ns >= 2 * slow_host.punching_ns);
	image_settle_free(settle);
	image_close(image);
	settle_check_seen(dir_fd);
}

static void count_pieces(void *context)
{
	(*(unsigned int *)context)++;
}

/* However large a hole is, the file is never locked for more than a piece of it. */
static void try_large_hole(int dir_fd)
{
	struct host_puncher puncher = {.io = &slow_host.io, .between = count_pieces};
	unsigned int pieces = 0;
	uint8_t byte = 1, found;
	uint64_t from = (random_below(3) << 20) + random_below(1 << 20), length = 1 + random_below(8 << 20);

	empty_directory(dir_fd);
	slow_host = (struct slow_host){.io = io_fast};
	slow_host.io.fallocate = punch_slowly;
	int fd = openat(dir_fd, "file", O_RDWR | O_CREAT | O_EXCL, 0600);
	CHECK(fd >= 0);
	puncher.data_fd = fd;
	puncher.context = &pieces;
	const uint64_t places[] = {from, from + length / 2, from + length - 1, from + length};
	for (size_t i = 0; i < 4; i++)
		CHECK_IS(pwrite(fd, &byte, 1, (off_t)places[i]), 1);
	CHECK_IS(host_space_punch(&puncher, from, length), 0);
	CHECK(slow_host.longest <= 1 << 20 && pieces >= length >> 20);
	for (size_t i = 0; i < 4; i++)
		CHECK(pread(fd, &found, 1, (off_t)places[i]) == 1 && found == (i == 3));
	close(fd);
}

/* However little a rate allows, it allows no more: here one piece, which is free, and nothing for hours. */
static void try_slow(int dir_fd)
{
	const struct settle_options options = {.threshold = settle_test_options.threshold, .batch_bytes = 2048};
	const struct settle_limits limits = {.rate = 1, .step_ms = 10};
	struct settle_progress progress = {0};
	struct image_settle *settle;
	struct image *image;

	settle_start(dir_fd);
	CHECK_IS(image_open(&io_fast, dir_fd, NAME, IMAGE_EXCLUSIVE, 0, 2000, &image), 0);
	CHECK_IS(image_settle_new(image, &options, never, NULL, &settle), 0);
	while (progress.bytes_moved == 0 && !progress.finished) /* holes cost nothing */
		CHECK_IS(image_settle_step(settle, &limits, &progress), 0);
	uint64_t moved = progress.bytes_moved;
	for (int i = 0; i < 4; i++) {
		CHECK_IS(image_settle_step(settle, &limits, &progress), 0);
		CHECK_IS(progress.bytes_moved, moved);
	}
	/* That of another rate is not waited for. */
	while (!progress.finished)
		CHECK_IS(image_settle_step(settle, &(struct settle_limits){.rate = UINT64_MAX}, &progress), 0);
	image_settle_free(settle);
	image_close(image);
	settle_check_seen(dir_fd);
}

int main(void)
{
	int dir_fd = scratch_directory(), base_fd = scratch_directory();
	const char *rounds = getenv("ROUNDS");

	random_start();
	for (int i = 0; i < (rounds ? atoi(rounds) : 1); i++) {
		try_offline(dir_fd);
		try_rate(dir_fd);
		try_slow(dir_fd);
		try_pauses(dir_fd);
		try_large_hole(dir_fd);
		for (int j = 0; j < 60; j++)
			try_life(dir_fd);
		try_faults(base_fd, dir_fd);
		try_undo_kept(base_fd, dir_fd);
	}
	return 0;
}

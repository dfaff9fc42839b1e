/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: a crash at any operation of a settle pass, whatever is lost of what was not synced (tests/mapdb/power.h),
 * leaves everything that the guest had flushed, and so does one after a call to the host has failed; the pass can be
 * taken up again.
 *
 * SEED=n repeats a run; ROUNDS=n makes more.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "hash_set.h"
#include "io_fault.h"
#include "power.h"
#include "scenario.h"
#include "settle_guest.h"

/* What a sector may hold after a crash that came before operation count. */
static bool may_hold(unsigned int sector, uint64_t value, size_t count, bool lost, uint64_t initial)
{
	bool fine = value == initial;

	for (size_t i = 0; i < guest.event_count && guest.events[i].begun < count; i++) {
		const struct event *event = &guest.events[i];
		bool writes = sector >= event->first && sector - event->first < event->count;
		bool done = event->done <= count;

		if (writes && done && !lost) /* a kill: what is done is done */
			fine = event->value == value;
		else if (writes)
			fine = fine || event->value == value;
		else if (event->count == 0 && done) { /* flushed: nothing older than the last write before it */
			uint64_t last = initial;

			for (size_t j = 0; j < i; j++) {
				if (sector >= guest.events[j].first &&
				    sector - guest.events[j].first < guest.events[j].count)
					last = guest.events[j].value;
			}
			fine = value == last;
		}
	}
	return fine;
}

struct crashes {
	const uint64_t *initial;
	int dir_fd;
	bool lost; /* what was not synced may be */
	struct hash_set seen;
};

static bool visit_crash(void *context, const struct disk *disk, size_t count)
{
	struct crashes *crashes = context;
	uint64_t found[SECTORS], hash = disk_hash(disk);

	if (!hash_set_add(&crashes->seen, hash ^ count << 40 ^ (uint64_t)crashes->lost << 33))
		return true;
	empty_directory(crashes->dir_fd);
	disk_make(disk, crashes->dir_fd, NULL);
	check_context("crash before operation %zu (%s), lost %d", count, io_record_describe(guest.record, count),
	              crashes->lost);
	settle_read_sectors(&io_fast, crashes->dir_fd, found);
	for (unsigned int i = 0; i < SECTORS; i++)
		CHECK(may_hold(i, found[i], count, crashes->lost, crashes->initial[i]));
	if (hash % 64 == 0)
		settle_take_up(crashes->dir_fd, found);
	return true;
}

/* Kills, and failures of power. */
static void crash_everywhere(const struct io_record *record, const uint64_t *initial, int dir_fd)
{
	struct crashes crashes = {.initial = initial, .dir_fd = dir_fd};
	const struct power_options options = {
	        .to = io_record_count(record), .forgotten = SIZE_MAX, .brief = true, .random = 4, .seed = random_u64()};
	struct disk disk;

	for (size_t count = 0; count <= io_record_count(record); count++) {
		power_disk(record, count, POWER_KEPT, &disk);
		visit_crash(&crashes, &disk, count);
		disk_release(&disk);
	}
	crashes.lost = true;
	power_enumerate(record, &options, visit_crash, &crashes);
	hash_set_free(&crashes.seen);
	check_context("%s", "");
}

static void try_crashes(int live_fd, int dir_fd)
{
	uint64_t initial[SECTORS];
	struct settle_progress progress;

	settle_start(live_fd);
	memcpy(initial, guest.sectors, sizeof initial);
	guest.record = io_record_new(live_fd);
	guest.base = io_record_io(guest.record);
	guest.activity = 10;
	guest.stop = random_below(2) ? 6 : 0;
	settle_open(&guest.io, live_fd);
	CHECK_IS(settle_run_pass(&guest.io, false, random_below(2), &progress), 0);
	settle_close();
	settle_check_seen(live_fd);
	settle_check_nothing_leaked(live_fd);
	settle_check_cut(live_fd);
	crash_everywhere(guest.record, initial, dir_fd);
	io_record_free(guest.record);
}

static bool visit_flushed(void *context, const struct disk *disk, size_t count)
{
	struct crashes *crashes = context;
	uint64_t found[SECTORS];

	if (!hash_set_add(&crashes->seen, disk_hash(disk)))
		return true;
	empty_directory(crashes->dir_fd);
	disk_make(disk, crashes->dir_fd, NULL);
	settle_read_sectors(&io_fast, crashes->dir_fd, found);
	CHECK(!memcmp(found, guest.sectors, sizeof found));
	return true;
}

/* The guest writes and flushes, and then the power fails. */
static void write_then_crash(int dir_fd)
{
	struct crashes crashes = {.dir_fd = dir_fd};

	guest_put_grain(8, 4711, false);
	guest_put_grain((SECTORS - 1) / guest.grain * guest.grain, 4712, false);
	CHECK_IS(guest.base->fdatasync(guest.base, guest.image->data_fd), 0);
	size_t count = io_record_count(guest.record);
	const struct power_options options = {.from = count, .to = count, .forgotten = SIZE_MAX, .brief = true};
	power_enumerate(guest.record, &options, visit_flushed, &crashes);
	hash_set_free(&crashes.seen);
}

/* The k-th call of a pass fails. If the process is killed there, somebody else opens the image afterwards; otherwise
 * the guest goes on with the same one, which may be in doubt about which map counts. False if the pass ended before. */
static bool fail_then_crash(int base_fd, int live_fd, int dir_fd, size_t k, enum fault_mode mode)
{
	struct settle_progress progress;
	struct io_fault fault;

	check_context("call %zu fails, mode %d, then a crash", k, mode);
	empty_directory(live_fd);
	copy_directory(base_fd, live_fd);
	guest.record = io_record_new(live_fd);
	io_fault_init(&fault, io_record_io(guest.record), SIZE_MAX, mode, EIO);
	guest.base = io_record_io(guest.record);
	settle_open(&fault.io, live_fd);
	fault.countdown = k;
	settle_run_pass(&fault.io, false, false, &progress);
	if (mode == FAULT_DEAD) {
		settle_close();
		CHECK_IS(image_open(guest.base, live_fd, NAME, IMAGE_SHARED, 0, 0, &guest.image), 0);
		guest.map = image_map_ref(guest.image->map);
	}
	write_then_crash(dir_fd);
	settle_close();
	check_context("%s", "");
	io_record_free(guest.record);
	guest.record = NULL;
	return fault.happened;
}

static void try_failures_and_crashes(int base_fd, int live_fd, int dir_fd)
{
	settle_start(base_fd);
	guest.base = &io_fast;
	for (enum fault_mode mode = FAULT_ONCE; mode <= FAULT_DEAD; mode++)
		for (size_t k = 0; fail_then_crash(base_fd, live_fd, dir_fd, k, mode); k++)
			;
}

int main(void)
{
	int live_fd = scratch_directory(), dir_fd = scratch_directory(), base_fd = scratch_directory();
	const char *rounds = getenv("ROUNDS");

	random_start();
	for (int i = 0; i < (rounds ? atoi(rounds) : 1); i++) {
		try_failures_and_crashes(base_fd, live_fd, dir_fd);
		try_crashes(live_fd, dir_fd);
	}
	return 0;
}

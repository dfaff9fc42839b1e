/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: a crash at any operation of a settle pass, with or without the loss of what was not synced, leaves
 * everything that the guest had flushed, and so does one after a call to the host has failed; the pass can be taken up
 * again.
 *
 * SEED=n repeats a run; ROUNDS=n makes more.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "io_fault.h"
#include "io_record.h"
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

static void crash_everywhere(const struct io_record *record, const uint64_t *initial, int dir_fd)
{
	uint64_t found[SECTORS];

	for (size_t count = 0; count <= io_record_count(record); count++) {
		for (int loss = IO_LOSS_NONE; loss < IO_LOSS_COUNT; loss++) {
			empty_directory(dir_fd);
			io_record_replay(record, count, (enum io_loss)loss, dir_fd);
			check_context("crash before operation %zu (%s), loss %d", count,
			              io_record_describe(record, count), loss);
			settle_read_sectors(&io_fast, dir_fd, found);
			for (unsigned int i = 0; i < SECTORS; i++)
				CHECK(may_hold(i, found[i], count, loss & IO_LOSS_DATA, initial[i]));
			if (count % 7 == 0 && loss == IO_LOSS_DATA)
				settle_take_up(dir_fd, found);
		}
	}
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
	crash_everywhere(guest.record, initial, dir_fd);
	io_record_free(guest.record);
}

/* The guest writes and flushes, and then the power fails. */
static void write_then_crash(int dir_fd)
{
	uint64_t found[SECTORS];

	guest_put_grain(8, 4711, false);
	guest_put_grain((SECTORS - 1) / guest.grain * guest.grain, 4712, false);
	CHECK_IS(guest.base->fdatasync(guest.base, guest.image->data_fd), 0);
	for (int loss = IO_LOSS_NONE; loss < IO_LOSS_COUNT; loss++) {
		empty_directory(dir_fd);
		io_record_replay(guest.record, io_record_count(guest.record), (enum io_loss)loss, dir_fd);
		settle_read_sectors(&io_fast, dir_fd, found);
		CHECK(!memcmp(found, guest.sectors, sizeof found));
	}
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

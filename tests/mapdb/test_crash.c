/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: a crash at any operation of any change leaves what guests saw before it or what they see after it, and once
 * the change has been reported done, what they see after it; also if the crash loses everything that was not synced;
 * also if there is another crash during recovery, or if the process is killed first and the power fails later.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "io_fault.h"
#include "io_record.h"
#include "scenario.h"

#define STEPS_MAX    32
/* Crashes during recovery are tried for every n-th crash. */
#define NESTED_EVERY 5

static struct view views[STEPS_MAX + 1]; /* before step i; after the last one */
static size_t marks[STEPS_MAX + 1];      /* operations recorded until then */
static unsigned long states;

static void check_view(int dir_fd, size_t step, bool done)
{
	static struct view found;

	view_read(&io_fast, dir_fd, &found);
	CHECK(view_same(&found, &views[step + 1]) || (!done && view_same(&found, &views[step])));
	states++;
}

/* Records the recovery of one crashed state and crashes that everywhere, too. */
static void crash_recovery(int crashed_fd, int dir_fd, size_t step, bool done)
{
	static struct view found;
	struct io_record *record = io_record_new(crashed_fd);

	view_read(io_record_io(record), crashed_fd, &found);
	for (size_t count = 0; count <= io_record_count(record); count++) {
		for (int loss = IO_LOSS_NONE; loss < IO_LOSS_COUNT; loss += 3) {
			empty_directory(dir_fd);
			io_record_replay(record, count, (enum io_loss)loss, dir_fd);
			check_view(dir_fd, step, done);
		}
	}
	io_record_free(record);
}

static void crash_everywhere(const struct io_record *record, size_t step, int dir_fd, int nested_fd)
{
	for (size_t count = marks[step]; count <= marks[step + 1]; count++) {
		bool done = count == marks[step + 1];

		for (int loss = IO_LOSS_NONE; loss < IO_LOSS_COUNT; loss++) {
			check_context("%s: crash before operation %zu (%s), loss %d", scenario_name(step), count,
			              io_record_describe(record, count), loss);
			empty_directory(dir_fd);
			io_record_replay(record, count, (enum io_loss)loss, dir_fd);
			check_view(dir_fd, step, done);
		}
		if (count % NESTED_EVERY == 0) {
			empty_directory(dir_fd);
			io_record_replay(record, count, IO_LOSS_NONE, dir_fd);
			crash_recovery(dir_fd, nested_fd, step, done);
		}
	}
}

/* The process is killed before operation k (so the kernel has everything up to there), somebody else opens the images,
 * and then the power fails: what nobody synced is lost, from before the kill too. False if the step ended before k. */
static bool kill_then_crash(const struct io_record *record, size_t step, size_t k, int live_fd, int dir_fd)
{
	static struct view found;
	struct io_fault killed;

	empty_directory(live_fd);
	io_record_replay(record, marks[step], IO_LOSS_NONE, live_fd);
	struct io_record *after = io_record_new(live_fd);
	io_fault_init(&killed, io_record_io(after), k, FAULT_DEAD, EIO);
	scenario_run(&killed.io, live_fd, step);
	size_t first = io_record_count(after);

	view_read(io_record_io(after), live_fd, &found);
	CHECK(view_same(&found, &views[step]) || view_same(&found, &views[step + 1]));
	for (size_t count = first; count <= io_record_count(after); count++) {
		for (int loss = IO_LOSS_NAMES; loss < IO_LOSS_COUNT; loss++) {
			check_context("%s: killed at call %zu, crash before operation %zu (%s), loss %d",
			              scenario_name(step), k, count, io_record_describe(after, count), loss);
			empty_directory(dir_fd);
			io_record_replay(after, count, (enum io_loss)loss, dir_fd);
			check_view(dir_fd, step, false);
		}
	}
	io_record_free(after);
	return killed.happened;
}

int main(void)
{
	int live_fd = scratch_directory(), dir_fd = scratch_directory(), nested_fd = scratch_directory();

	CHECK(scenario_steps <= STEPS_MAX);
	scenario_start(live_fd);
	struct io_record *record = io_record_new(live_fd);
	view_read(&io_fast, live_fd, &views[0]);
	for (size_t step = 0; step < scenario_steps; step++) {
		check_context("%s", scenario_name(step));
		CHECK_IS(scenario_run(io_record_io(record), live_fd, step), 0);
		marks[step + 1] = io_record_count(record);
		size_t changes = io_record_changes(record);
		view_read(io_record_io(record), live_fd, &views[step + 1]);
		CHECK_IS(io_record_changes(record), changes); /* nothing was left for recovery */
	}
	for (size_t step = 0; step < scenario_steps; step++)
		crash_everywhere(record, step, dir_fd, nested_fd);
	for (size_t step = 0; step < 2; step++) /* adoption, change */
		for (size_t k = 0; kill_then_crash(record, step, k, live_fd, dir_fd); k++)
			;
	if (getenv("VERBOSE"))
		printf("%zu operations, %lu states\n", io_record_count(record), states);
	io_record_free(record);
	return 0;
}

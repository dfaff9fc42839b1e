/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: whichever call to the host fails, in whichever way, or whichever memory SQLite does not get, guests see the
 * old state or the new one: the new one if success or -EINPROGRESS was reported, the old one after any other error of a
 * change of the map, unless that says that it does not know; a part of the new one after that of a discard; and no
 * descriptor is leaked.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "io_fault.h"
#include "mapdb/image.h"
#include "memory_fault.h"
#include "scenario.h"

struct way {
	enum fault_mode mode;
	int error; /* ENOMEM: SQLite gets no memory, and the host does what it is asked for */
};

#define MEMORY_SAMPLE 40 /* of so many requests of a step one fails */

static const struct way ways[] = {
        {FAULT_ONCE, EIO},     {FAULT_ONCE, ENOSPC}, {FAULT_DEAD, EIO},
        {FAULT_SHORT, ENOSPC}, {FAULT_ONCE, ENOMEM}, {FAULT_DEAD, ENOMEM},
};

static struct io_fault fault;
static unsigned long faults, doubts;

/* From now on the k-th call fails. What to call. */
static const struct io *begin_fault(size_t k, struct way way)
{
	if (way.error == ENOMEM) {
		memory_fault_begin(k, way.mode == FAULT_DEAD);
		return &io_fast;
	}
	io_fault_init(&fault, &io_fast, k, way.mode, way.error);
	return &fault.io;
}

/* Whether it has come to that call; rc: what came of it. */
static bool end_fault(struct way way, int rc)
{
	faults++;
	if (way.error != ENOMEM)
		return fault.happened;
	CHECK(rc == 0 || rc == -ENOMEM || rc == -EINPROGRESS || rc == IN_DOUBT);
	return memory_fault_end();
}

/* Undo is only offered while the data file is the very one that the run left; a copy is not. */
static bool needs_the_original(size_t step)
{
	return scenario_name(step)[0] == 'u' && scenario_name(step)[2] == 'd';
}

/* Makes in dir_fd the state before a step. */
static void prepare(int base_fd, int dir_fd, size_t step)
{
	empty_directory(dir_fd);
	if (!needs_the_original(step)) {
		copy_directory(base_fd, dir_fd);
		return;
	}
	scenario_start(dir_fd);
	for (size_t i = 0; i < step; i++)
		CHECK_IS(scenario_run(&io_fast, dir_fd, i), 0);
}

/* Runs one step with one fault. False if the step ended before the fault came. */
static bool try_fault(int base_fd, int dir_fd, size_t step, size_t k, struct way way)
{
	static struct view old, new, found;

	check_context("%s: call %zu fails, mode %d, errno %d", scenario_name(step), k, way.mode, way.error);
	if (k == 0) {
		view_read(&io_fast, base_fd, &old);
		prepare(base_fd, dir_fd, step);
		CHECK_IS(scenario_run(&io_fast, dir_fd, step), 0);
		view_read(&io_fast, dir_fd, &new);
	}
	prepare(base_fd, dir_fd, step);
	unsigned int descriptors = count_descriptors();
	int rc = scenario_run(begin_fault(k, way), dir_fd, step);
	bool happened = end_fault(way, rc);
	CHECK_IS(count_descriptors(), descriptors);

	view_read(&io_fast, dir_fd, &found);
	view_classify(&io_fast, dir_fd, &found);
	if (rc == IN_DOUBT) /* only on a dead disk what has happened cannot be looked at */
		CHECK_IS(way.mode, FAULT_DEAD);
	doubts += rc == IN_DOUBT;
	if (rc == 0 || rc == -EINPROGRESS)
		CHECK(view_same(&found, &new));
	else if (scenario_discards(step))
		CHECK(view_discarded(&found, &old, &new));
	else if (scenario_exact(step) && rc != IN_DOUBT)
		CHECK(view_same(&found, &old));
	else
		CHECK(view_same(&found, &old) || view_same(&found, &new));
	return happened;
}

/* Leaves in dir_fd an image whose redo could not be applied, and says what a guest would see of it. */
static void make_pending(int base_fd, int dir_fd, struct view *view)
{
	int rc = 0;

	for (size_t k = 0; rc != -EINPROGRESS; k++) {
		prepare(base_fd, dir_fd, 0);
		rc = scenario_run(begin_fault(k, (struct way){FAULT_ONCE, EIO}), dir_fd, 0);
		CHECK(fault.happened);
	}
	empty_directory(base_fd);
	copy_directory(dir_fd, base_fd);
	view_read(&io_fast, dir_fd, view);
}

/* Whatever fails while an image with pending redo is opened: if it opens, it shows what redo makes of it. */
static bool try_open(int base_fd, int dir_fd, const struct view *view, enum image_access access, size_t k,
                     struct way way)
{
	static uint8_t bytes[VIEW_SIZE];
	struct image *image;

	check_context("open: call %zu fails, mode %d, errno %d, access %d", k, way.mode, way.error, access);
	empty_directory(dir_fd);
	copy_directory(base_fd, dir_fd);
	CHECK_IS(image_clean_stale(&io_fast, dir_fd, NULL, NULL), 0);
	unsigned int descriptors = count_descriptors();
	int rc = image_open(begin_fault(k, way), dir_fd, "a.img", access, 0, 2000, &image);
	bool happened = end_fault(way, rc);
	if (rc == 0) {
		rc = image_read(image, bytes, image->state.size, 0);
		CHECK_IS(image->state.size, view->size[0]);
		CHECK(rc == -EIO || !memcmp(bytes, view->bytes[0], view->size[0]));
		CHECK(image->overlay ? image->read_only : !image->state.redo_pending);
		image_close(image);
	}
	CHECK_IS(count_descriptors(), descriptors);
	return happened;
}

static void fail_recovery(int dir_fd)
{
	static struct view view;
	int base_fd = scratch_directory();

	scenario_start(base_fd);
	make_pending(base_fd, dir_fd, &view);
	for (enum image_access access = IMAGE_UNLOCKED; access <= IMAGE_EXCLUSIVE; access++)
		for (size_t way = 0; way < sizeof ways / sizeof ways[0]; way++)
			for (size_t k = 0; try_open(base_fd, dir_fd, &view, access, k, ways[way]); k++)
				;
}

int main(void)
{
	int base_fd = scratch_directory(), dir_fd = scratch_directory();

	random_start();
	memory_fault_install();
	scenario_start(base_fd);
	for (size_t step = 0; step < scenario_steps; step++) {
		/* The guest is told of its own errors, and left to itself. */
		for (size_t way = 0; way < sizeof ways / sizeof ways[0] && !scenario_by_guest(step); way++)
			for (size_t k = 0; try_fault(base_fd, dir_fd, step, k, ways[way]);)
				k += ways[way].error == ENOMEM ? 1 + random_below(2 * MEMORY_SAMPLE) : 1;
		CHECK_IS(scenario_run(&io_fast, base_fd, step), 0);
	}
	CHECK(doubts > 0);
	fail_recovery(dir_fd);
	if (getenv("VERBOSE"))
		printf("%lu faults, %lu of them left in doubt what has happened\n", faults, doubts);
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * scenario: the life of two images, a.img and b.img, step by step: adoption with a first change, a second change, undo, growth,
 * shrinking, back to the identity, settling, back to plain in every way, replacement, removal, and what is free given back. Each step is
 * an atomic change of what a guest sees, or in parts: the guest writes or discards, and flushes; or what is free is given back. Used to crash, and to fail, at every operation of every step.
 */
#ifndef ZCFS_TESTS_SCENARIO_H
#define ZCFS_TESTS_SCENARIO_H

#include <stdbool.h>

#include "mapdb/io.h"

#define IMAGE_SIZE 32768u
#define VIEW_SIZE  65536u

/* What guests see of both images. */
struct view {
	bool exists[2];
	uint64_t size[2];
	uint8_t bytes[2][VIEW_SIZE];
	bool undo_recorded[2]; /* by the database; no guest sees that */
};

void scenario_start(int dir_fd); /* makes the two plain images */

void copy_bundle(int dir_fd, const char *from_name, const char *to_name);

extern const size_t scenario_steps;
const char *scenario_name(size_t step);
size_t scenario_find(const char *name);
#define IN_DOUBT 1 /* the step cannot tell whether it has come to something */
/* True if the step promises that after an error the old state is left (-EINPROGRESS: the new one; IN_DOUBT: one of the two). */
bool scenario_exact(size_t step);
/* True if the guest does it: before its flush any part may be there. */
bool scenario_by_guest(size_t step);
/* True if it is zcfs-defrag --discard: until it is done, any part may be; no undo is left from its first part on. */
bool scenario_discards(size_t step);
/* 0, IN_DOUBT or -errno. Nothing is left open. */
int scenario_run(const struct io *io, int dir_fd, size_t step);

/* The guest writes to a few ranges something else than what is there, and flushes. */
int scenario_guest(const struct io *io, int dir_fd, const char *name);

/* Cleans what is stale, then opens and reads both images. Fails the test if either is damaged. */
void view_read(const struct io *io, int dir_fd, struct view *view);
/* Whether both are what they are taken for, without opening them. */
void view_classify(const struct io *io, int dir_fd, const struct view *view);
bool view_same(const struct view *a, const struct view *b);
/* Each byte is that of one view or of the other. */
bool view_between(const struct view *found, const struct view *old, const struct view *new);
/* The same, and if anything differs from the old one, there is no undo. */
bool view_discarded(const struct view *found, const struct view *old, const struct view *new);
/* io_posix, but for syncs, which do nothing: for directories that nobody will need after a crash. */
extern const struct io io_fast;

#endif

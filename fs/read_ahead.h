/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * read_ahead: a guest that reads a scattered image in sequence.
 *
 * The host reads ahead in the order of its file, which is not the guest's: with extents shorter than what it reads
 * ahead most of that is wanted by nobody (three times as much was read as asked for, with extents of 300 KB). For such
 * an image it is told not to, and is asked for what comes next in the guest instead. A hint, of any thread: nothing
 * goes wrong if two of them disagree.
 */
#ifndef ZCFS_READ_AHEAD_H
#define ZCFS_READ_AHEAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mapdb/image_map.h"

struct read_ahead {
	bool wanted;
	_Atomic(uint64_t) next;  /* guest_off where the last read has ended */
	atomic_bool in_sequence; /* with the one before */
	_Atomic(uint64_t) asked; /* guest_off up to which the host was asked */
};

/* For a bundle that lies on a disk; data_fd: through which it will be read. */
void read_ahead_init(struct read_ahead *self, int data_fd, const struct image_map *map);

/* Notes a read that goes through the host's cache. True: the host is to be asked for what comes next, by a thread that
 * may wait. The same read may be noted again, with the same answer. */
bool read_ahead_due(struct read_ahead *self, uint64_t guest_off, size_t length);
void read_ahead_ask(struct read_ahead *self, int data_fd, const struct image_map *map);

#endif

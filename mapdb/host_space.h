/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * host_space: what of a data file is data and what is hole, having it written, punching holes, and giving back what no extent names. Any
 * thread.
 */
#ifndef ZCFS_HOST_SPACE_H
#define ZCFS_HOST_SPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mapdb/image_map.h"
#include "mapdb/io.h"

/* What host file systems allocate by, at least; only whole blocks can be given back. */
#define HOST_BLOCK 4096u

/* A stretch [start, end) of the data file that is all data or all hole. One answer often serves for many extents. */
struct host_stretch {
	uint64_t start, end;
	bool data;
};

/* The stretch that begins at host_off; past the end of the file a hole without end. -errno of lseek. */
int host_stretch_at(int data_fd, uint64_t host_off, struct host_stretch *out);

/* Has the host begin to write what it has cached of the range. No more than a hint: nothing is durable by it, and errors are left to
 * the next sync, which has to be made anyway. */
void host_start_writing(int data_fd, uint64_t host_off, uint64_t length);

/* How holes are punched: while that happens the host has the file locked, and its users wait. A host that discards at once what is
 * given back takes long, above all for a large hole; so a large one is punched in pieces. */
struct host_puncher {
	const struct io *io;
	int data_fd;
	void (*between)(void *context); /* called after each piece: others may be given time for theirs */
	void *context;
};

/* The first error, after all pieces were tried. */
int host_space_punch(const struct host_puncher *puncher, uint64_t host_off, uint64_t length);

/* Punches, of the ranges (host_off and length; best in host order, in which neighbours are punched at once) and what is unmapped around
 * them, whole blocks that no extent of the index's map names. Around them, because a block of which several extents had parts is free
 * only when the last of them goes. Ranges that are mapped are passed over. The first error, after everything was tried; then space is
 * wasted, no more. */
int host_space_release(const struct host_puncher *puncher, const struct host_index *index, const struct extent *ranges,
		       size_t count);

#endif

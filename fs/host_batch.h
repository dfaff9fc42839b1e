/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * host_batch: many pieces of one file read at once, so that the disk sees them all and waiting takes as long as the
 * slowest, not as all together. Through io_uring where the system lets us, else by read-ahead. Any thread.
 */
#ifndef ZCFS_HOST_BATCH_H
#define ZCFS_HOST_BATCH_H

#include <stddef.h>
#include <stdint.h>

/* A request of 1 MiB over 4 KiB clusters is one batch. */
#define HOST_BATCH_MAX 256

struct host_piece {
	uint64_t host_off;
	uint8_t *buffer;
	size_t length; /* bytes */
};

struct host_batch {
	size_t count;
	struct host_piece pieces[HOST_BATCH_MAX];
};

/* This thread's batch, empty, to be filled; NULL: no memory. One at a time. */
struct host_batch *host_batch_begin(void);

/* Reads all pieces and waits for them; -EIO for what is past the end of the file. Changes their order. 0 or
 * -errno. */
int host_batch_read(struct host_batch *batch, int fd);

#endif

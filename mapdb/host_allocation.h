/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * host_allocation: what of a data file takes up space on the host, by FIEMAP: written or preallocated, which seeking
 * for data would not tell. Walks forwards, a few hundred extents at a question. One thread.
 *
 * It says what is worth a punch, not what may be punched.
 */
#ifndef ZCFS_HOST_ALLOCATION_H
#define ZCFS_HOST_ALLOCATION_H

#include <linux/fiemap.h>
#include <stdbool.h>
#include <stdint.h>

#define HOST_ALLOCATION_ASKED 256

struct host_allocation {
	int data_fd;
	bool unknown;  /* the file system does not tell: anything may take up space */
	bool asked;    /* there is an answer */
	uint32_t next; /* of its extents, not yet passed */
	_Alignas(struct fiemap) char answer[sizeof(struct fiemap) +
	                                    HOST_ALLOCATION_ASKED * sizeof(struct fiemap_extent)];
};

void host_allocation_start(struct host_allocation *allocation, int data_fd);

/* The first allocated bytes at host_off, which is never below that of the last call, or behind it: [*start, *end).
 * False if there are none. */
bool host_allocation_next(struct host_allocation *allocation, uint64_t host_off, uint64_t *start, uint64_t *end);

#endif

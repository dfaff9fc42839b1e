/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * transfer: a read or write of an open image that a ring's thread has started on the host, and answers when it is done,
 * without waiting for it: it goes by the ring that the request has come by, and its completion comes by that, too.
 *
 * Only what goes smoothly. What is not possible this way, or fails, or is not done in full, must be done from the
 * beginning by a thread that may wait; that one also finds out what was wrong. Where libfuse has no such rings, nothing
 * is possible.
 */
#ifndef ZCFS_TRANSFER_H
#define ZCFS_TRANSFER_H

#include "fs/fuse_api.h"
#include "fs/open_image.h"

struct transfer_request {
	fuse_req_t req;
	struct open_image *image;
	uint8_t *buffer; /* there until done */
	size_t length;
	uint64_t off; /* in the image */
	bool direct;  /* past the host's cache */
	/* How many bytes, in the ring's thread: the handle may be closed from then on. -EAGAIN: not done. Perhaps
	 * before transfer_read() or transfer_write() returns. */
	void (*done)(struct transfer_request *self, ssize_t n);
};

/* Of the thread of the ring that req has come by. request stays where it is until it is done. */
void transfer_read(struct transfer_request *request);
void transfer_write(struct transfer_request *request);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The request by which a tool has the daemon settle an image that it serves: an ioctl on the image's file, opened through the mount.
 *
 * One call is one step (mapdb/settle.h): the daemon moves one batch and answers how far the pass has come. So a pass lives
 * exactly as long as somebody asks for it: a tool that was stopped or killed leaves nothing behind that goes on. A signal ends the step
 * at the next piece, keeping what it has copied. Open to root and to the user that the daemon runs as, whatever the
 * file was opened for.
 *
 * Errors, besides those of settle_step(): ENOTTY no zcfs, or an older one; EPERM another user; EROFS the image is served read-only;
 * EBUSY another step for this image is under way; EAGAIN too much is under way in the daemon, try again; EINVAL flags or
 * a text that it does not know.
 */
#ifndef ZCFS_SETTLE_IOCTL_H
#define ZCFS_SETTLE_IOCTL_H

#include <linux/ioctl.h>
#include <stdint.h>

#define SETTLE_TEXT_MAX 128

enum {
	SETTLE_REQUEST_IDLE = 1, /* in: copy only while the guest leaves the image alone */
	SETTLE_REQUEST_FINISHED = 2, /* out: nothing is left to move */
	SETTLE_REQUEST_PLAIN = 4,    /* out: there is no map; nothing to do */
};

/* All in the machine's byte order; sizes and offsets in bytes. */
struct settle_request {
	/* in */
	uint64_t threshold; /* 0: the default */
	uint64_t rate;	    /* bytes a second; 0: none */
	uint32_t step_ms;   /* the step ends after about this time; 0: when its batch is done */
	uint32_t flags;	    /* in and out */
	char text[SETTLE_TEXT_MAX]; /* for the history; ends with a zero byte */
	/* out: see struct settle_progress */
	uint64_t bytes_planned;
	uint64_t bytes_left;
	uint64_t bytes_moved;
	uint64_t extents_before;
	uint64_t extents;
};

#define SETTLE_IOC_STEP _IOWR('z', 0x53, struct settle_request)

#endif

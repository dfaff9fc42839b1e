/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * settle: the settle pass as a command: asks the daemon for step after step, or makes the steps itself where none serves the
 * image, until nothing is left, the time is up or somebody wants to stop. One thread.
 */
#ifndef ZCFS_TOOLS_SETTLE_H
#define ZCFS_TOOLS_SETTLE_H

#include "mapdb/image.h"
#include "tools/defrag_options.h"
#include "tools/progress.h"

struct settle_report {
	bool plain;    /* no map, nothing to do */
	bool finished; /* nothing is left to move */
	uint64_t extents_before, extents_after; /* of the image map: before the pass began, at first perhaps by another command; now */
	uint64_t bytes_moved; /* by the whole pass */
	uint64_t bytes_left;  /* to move, holes included */
};

/* Both return 0 (see report), -EINTR if the user stopped them, or why they failed: report then tells what was done until
 * then. They end when the time is up (tools/stop.h): at the next piece, and when the old places of what was moved are given back.
 *
 * mounted: image_fd is the image opened through the mount; uses SIGALRM and the interval timer. -ENOTTY: the daemon is an older one; -EPERM.
 * unmounted: image is open with IMAGE_EXCLUSIVE. -EAGAIN: somebody waits to open it; close it, and try again a little later. */
int settle_mounted(int image_fd, const struct defrag_options *options, struct progress *progress,
		   struct settle_report *report);
int settle_unmounted(struct image *image, const struct defrag_options *options, struct progress *progress,
		     struct settle_report *report);

#endif

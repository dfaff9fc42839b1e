/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * image_discard: gives back the host's space of ranges of an image that its guest does not use, as the guest's own
 * discards would: they read as zeros afterwards. What is live stays where it is; the map does not change. One thread.
 *
 * Whole blocks of the host are punched, so space comes back also where a block has free parts of several extents. Each
 * punch stands for itself: a crash, or an error, anywhere leaves some ranges with zeros and the others as they were.
 */
#ifndef ZCFS_IMAGE_DISCARD_H
#define ZCFS_IMAGE_DISCARD_H

#include "mapdb/image.h"

struct discard_options {
	bool dry_run;     /* only say how much it would be; an image opened read-only will do */
	const char *text; /* for the history */
	/* Called before each punch with the bytes of the data file that are passed; true: stop, -ECANCELED. */
	bool (*stop)(void *context, uint64_t done, uint64_t total);
	void *context;
};

struct discard_report {
	uint64_t bytes_free; /* of the ranges */
	/* Of the host's space that the data file takes; after: of a dry run what it would be, at least. Blocks that a
	 * clone of the file or a snapshot shares are counted, although giving them back frees nothing yet. */
	uint64_t allocated_before, allocated_after;
	bool finished; /* nothing is left */
};

/* True if image_undo() could bring back what was before the last pass. image_discard() makes that impossible: what then
 * was in use may be free now. */
int image_undo_kept(const struct image *image, bool *kept);

/* image: IMAGE_EXCLUSIVE. ranges: ascending, not overlapping, below the image's size (-EINVAL). The undo goes first,
 * durably; then all is punched and synced; a bundle's history has a row of it. -EAGAIN: gave way to somebody who waits
 * to open the image; -EBUSY: somebody has got hold of it; -ECANCELED; -EROFS; -EOPNOTSUPP: the host cannot punch holes,
 * or it is a network file system, where others could use the image unseen; -errno. The report is filled in in any case.
 */
int image_discard(struct image *image, const struct guest_range *ranges, size_t count,
                  const struct discard_options *options, struct discard_report *report);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * plain: a bundle becomes an ordinary raw file again, whatever its map is, so that zcfs can be left at any time.
 *
 * If the map is the identity, the data file itself takes the name (image_make_plain). There are two ways to get there otherwise:
 *
 *     in place      The settle pass (mapdb/image_settle.h) moves to its own offset what lies elsewhere, batch by batch, until the map
 *                   is the identity. Copies what was moved; needs little free space; the file stays the same. What a crash or a
 *                   stop leaves is a bundle of which a part is in place, with a map that says so.
 *     in a new file made beside the bundle, with the content in guest order and the owner, mode, times and extended attributes of
 *                   the old one; it is made durable, takes the name by one exchange, and the bundle is removed. Where the
 *                   file system has reflinks (XFS, btrfs) the blocks are shared with the old data file, and only edges of
 *                   extents that do not lie on blocks are copied; elsewhere all is copied, for which there must be as much free space
 *                   as the image takes up. The new file has another inode number, and its lock is another one: whoever waited for the
 *                   old one's looks again, as after every lock. A crash leaves the bundle or the complete file under the name, and
 *                   perhaps a hidden entry ".NAME.zcfs-plain-XXXXXX", which image_clean_stale() removes.
 *
 * A map that is the identity but for its plane (k * stride + g for all of it) could be brought home without copying, by collapsing
 * what is before the plane (FALLOC_FL_COLLAPSE_RANGE). It is not: no host does that in one transaction. ext4 removes in a transaction
 * of its own and restarts while it shifts, leaf by leaf; XFS rolls its transaction with every extent that it shifts. A crash
 * inside leaves a file of which part is shifted, and nothing in it says which. Where it would help most, on XFS, sharing
 * does the same and is safe.
 *
 * Holes stay holes. Undo and history are lost with the bundle.
 */
#ifndef ZCFS_PLAIN_H
#define ZCFS_PLAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "mapdb/image.h"

enum plain_method {
	PLAIN_AUTO,	/* the first of the following that can be done */
	PLAIN_EXCHANGE, /* the map is the identity (or the image plain already) */
	PLAIN_REFLINK,	/* -EOPNOTSUPP where there are no reflinks */
	PLAIN_SETTLE,	/* in place; -EOPNOTSUPP where no holes can be punched */
	PLAIN_COPY,	/* in a new file, like PLAIN_REFLINK */
};

struct plain_options {
	enum plain_method method;
	/* Called now and then with the bytes of the image that are done; true: stop, -ECANCELED. May be NULL. */
	bool (*progress)(void *context, uint64_t done, uint64_t total);
	void *context;
};

struct plain_report {
	enum plain_method method; /* what was done */
	uint64_t bytes_shared;	  /* with the old data file, without being copied; holes included */
	uint64_t bytes_copied;	  /* PLAIN_SETTLE: perhaps some of them twice, to make way for others */
};

/* image: IMAGE_EXCLUSIVE, not read-only; afterwards, if 0 is returned, it has neither lock nor lease any more and can only be closed.
 * -EINVAL: PLAIN_EXCHANGE, and the map is not the identity; -EOPNOTSUPP, -ENOSPC, -EDQUOT; -EBUSY: somebody has opened it meanwhile;
 * -ECANCELED; -EINPROGRESS: done, or not, as the host's disk will have it after a crash: until then nothing should be written to
 * the image. After any other error the guest's view is unchanged, and except for PLAIN_SETTLE so is everything else. */
int image_to_plain(struct image *image, const struct plain_options *options, struct plain_report *report);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * image_settle: the settle pass (mapdb/settle.h) over an image that nobody else has open: IMAGE_EXCLUSIVE. One thread.
 */
#ifndef ZCFS_IMAGE_SETTLE_H
#define ZCFS_IMAGE_SETTLE_H

#include "mapdb/image.h"
#include "mapdb/settle.h"

struct image_settle;

/* image: a bundle; borrowed. stop: asked often; a step ends early when it says true, or when somebody waits to open the image. */
int image_settle_new(struct image *image, const struct settle_options *options, bool (*stop)(void *context), void *context,
		     struct image_settle **out);
void image_settle_free(struct image_settle *settle); /* NULL is allowed */

/* One step; see settle_step. image->map and image->state follow. An undo of the last pass is valid until something is moved, also after a
 * step that failed. -EROFS: the image is read-only; -EBUSY: somebody opened it. */
int image_settle_step(struct image_settle *settle, const struct settle_limits *limits, struct settle_progress *progress);

#endif

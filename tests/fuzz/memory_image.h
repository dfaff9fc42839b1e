/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * memory_image: a disk image that lies in memory, to be looked at through a struct io; for as long as nothing writes to
 * it. One at a time.
 */
#ifndef ZCFS_TESTS_MEMORY_IMAGE_H
#define ZCFS_TESTS_MEMORY_IMAGE_H

#include "defrag/view.h"
#include "tests/fuzz/patches.h"

/* The bytes are borrowed. sparse: patches over zeros instead of bytes. size may be anything then. */
struct memory_image {
	const uint8_t *bytes;
	struct input sparse;
	uint64_t size;
};

extern const struct io memory_io; /* pread and nothing else */

void memory_image_use(const struct memory_image *image);
/* All of the image as a volume. map is its identity, which the caller releases. */
struct view memory_image_view(const struct memory_image *image, struct image_map **map);

#endif

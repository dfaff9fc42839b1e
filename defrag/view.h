/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * view: reading a part of an image as the guest would see it through a given map, with given changes overlaid.
 *
 * The guest pass looks at a volume twice: through the current map, and, to prove its work, through the new map with the
 * redo overlaid. Read only; owns nothing; one thread.
 */
#ifndef ZCFS_VIEW_H
#define ZCFS_VIEW_H

#include <stdint.h>

#include "defrag/run_list.h"
#include "mapdb/image_map.h"
#include "mapdb/io.h"
#include "mapdb/redo.h"

struct view {
	const struct io *io;
	int data_fd;
	const struct image_map *map;
	const struct redo_overlay *pending; /* committed earlier, not applied yet; may be NULL */
	const struct redo_overlay *changes; /* what this pass would change; may be NULL */
	const struct guest_range *gone;     /* of the image, ascending: what a discard would make zeros; may be NULL */
	size_t gone_count;
	uint64_t off;    /* of the volume in the image, bytes */
	uint64_t length; /* of the volume, bytes */
	int error; /* the last read that the host has failed, -EIO or -ENOMEM: nothing found through the view says
	              anything then */
};

/* Reads [off, off + length) of the volume. -ERANGE if that leaves the volume; else 0, -EIO or -ENOMEM. */
int view_read(struct view *view, void *buffer, uint64_t length, uint64_t off);

/* Reads from an attribute's data: bytes [off, off + length) of the stream that the runs describe, in clusters of
 * cluster_size bytes. Holes read as zeros. -ERANGE past the end of the runs. */
int view_read_runs(struct view *view, const struct run_index *runs, uint32_t cluster_size, void *buffer,
                   uint64_t length, uint64_t off);

#endif

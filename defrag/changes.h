/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * changes: the bytes of guest metadata that a pass will change, collected as redo blobs.
 *
 * One rule for addresses: a changed byte is named by where it lies on the volume *before* the pass. No data moves, so
 * the host byte found there through the old map is the right one whatever happens to the map.
 */
#ifndef ZCFS_CHANGES_H
#define ZCFS_CHANGES_H

#include <stddef.h>
#include <stdint.h>

#include "defrag/run_list.h"
#include "defrag/view.h"
#include "mapdb/redo.h"

struct changes {
	struct packed_blob {
		uint8_t *data;
		size_t size;
	} * blobs;
	size_t count, capacity;
	struct redo_blob open; /* being filled */
	uint64_t bytes;        /* changed so far */
};

void changes_free(struct changes *changes);

/* Whatever differs between before and after, which are [off, off + length) of the stream that the runs describe (no
 * holes there). */
int changes_diff(struct changes *changes, const struct view *view, const struct run_index *runs, uint32_t cluster_size,
                 uint64_t off, const uint8_t *before, const uint8_t *after, size_t length);

/* Closes the last blob. Call once, after the last change. */
int changes_finish(struct changes *changes);

#endif

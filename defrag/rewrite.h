/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * rewrite: a layout carried out on a volume's metadata: run lists, attribute lists, both bitmaps, $MFTMirr.
 *
 * Nothing is written: the result is the set of changed bytes (defrag/changes.h). $MFT is read once more, in large
 * pieces, and only records whose run lists change are touched. The boot sector never changes: $MFT keeps its first
 * cluster and $MFTMirr stays.
 */
#ifndef ZCFS_REWRITE_H
#define ZCFS_REWRITE_H

#include "defrag/changes.h"
#include "defrag/layout.h"
#include "defrag/scan.h"

/* Called for every object that moves, with the path of its file ("" if it has no name) and its stream's name ("" for
 * none). */
typedef int (*rewrite_moved)(void *context, const struct attr *head, const char *path, const char *stream,
                             const struct plan_object *object, const struct plan_target *target);

struct rewrite_result {
	uint64_t records_freed;
	struct run_list clusters_freed; /* of attribute lists no longer needed, where they are after the pass */
};

int rewrite_volume(const struct scan *scan, const struct layout *layout, struct changes *changes,
                   scan_progress progress, rewrite_moved moved, void *context, struct rewrite_result *result);

#endif

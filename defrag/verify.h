/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * verify: the proof that a pass changes nothing but where the guest sees its clusters.
 *
 * The volume is scanned again, through the new map with the changes overlaid, with all the scan's checks. Then, for
 * every cluster of every attribute, the host byte that it maps to must be the one it mapped to before; what must stay,
 * and clusters that are marked as used and nobody's, are where they were; every file's fingerprint must be the same; and
 * every changed byte must lie in metadata that a pass may change. libntfs-3g must be able to open the result.
 */
#ifndef ZCFS_VERIFY_H
#define ZCFS_VERIFY_H

#include "defrag/changes.h"
#include "defrag/scan.h"

#define REMEDY_REPORT         "nothing was changed; please report this, it is a defect of zcfs"
#define unproven(report, ...) (report_result((report), VOLUME_FAILED, REMEDY_REPORT, __VA_ARGS__), 1)

/* What the pass says that it has done, and how much of the data to look at. */
struct verify_expectation {
	uint64_t records_freed;
	uint64_t streams_moved;
	bool all_data; /* the first and the last cluster of every moved stream are read and compared; else of a few
	                  hundred */
	const struct guest_range *gone; /* of a discard, which moves nothing: of the streams that stay as many */
	size_t gone_count;
};

/* Returns 0 and the new scan in *out; -errno; or 1 and VOLUME_FAILED in the report, with what is not as it should be.
 */
int verify_volume(const struct scan *before, const struct image_map *new_map, const struct changes *changes,
                  const struct verify_expectation *expected, struct volume_report *report, scan_progress progress,
                  void *context, struct scan **out);

#endif

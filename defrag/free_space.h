/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * free_space: what of a volume nobody uses, as ranges of the image, and the proof that the volume can do without.
 *
 * Free is what $Bitmap says is free. The scan has found that no attribute owns any of it, or there would be none;
 * clusters that are marked and nobody's stay, as do those behind the last one.
 */
#ifndef ZCFS_FREE_SPACE_H
#define ZCFS_FREE_SPACE_H

#include "defrag/scan.h"

/* *out is malloc'ed: ascending, none next to another. -ENOMEM. */
int free_space_ranges(const struct scan *scan, struct guest_range **out, size_t *count);

/* No run of any attribute reaches into the ranges; libntfs-3g, too, finds them free; and with zeros in their place the
 * volume is the same to a second scan, to libntfs-3g, and at the ends of some hundred streams. 0, -errno, or 1 and
 * VOLUME_FAILED in the report. */
int free_space_prove(const struct scan *scan, const struct guest_range *ranges, size_t count,
                     struct volume_report *report, scan_progress progress, void *context);

#endif

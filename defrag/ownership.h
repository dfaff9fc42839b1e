/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * ownership: who owns which record and cluster, compared with what the volume's two bitmaps say.
 *
 * Part of the scan, in a file of its own: it fills in scan.mft_bitmap, scan.free, scan.lost and scan.clusters_free.
 * Return values as in defrag/scan.h.
 */
#ifndef ZCFS_OWNERSHIP_H
#define ZCFS_OWNERSHIP_H

#include "defrag/scan.h"

/* $MFT:$BITMAP has exactly the bits of the records in use (but for the reserved ones below 24). */
int ownership_check_records(struct scan *scan, struct volume_report *report);

/* No cluster has two owners, every owned cluster is marked in $Bitmap, bits past the volume's end are set, and the first
 * clusters are $Boot's. */
int ownership_check_clusters(struct scan *scan, struct volume_report *report);

#endif

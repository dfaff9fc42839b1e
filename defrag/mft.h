/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * mft: the part of a scan that finds all of $MFT, from nothing but the boot sector, and compares $MFTMirr with it.
 */
#ifndef ZCFS_MFT_H
#define ZCFS_MFT_H

#include "defrag/scan.h"

/* Fills in mft_runs, mft and record_count. 0, -errno, or 1: the report says what is wrong. */
int mft_open(struct scan *s, struct volume_report *report);

#endif

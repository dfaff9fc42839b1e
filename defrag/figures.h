/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * figures: what a volume's report says in numbers, by a scan of it, and what stays in more than one piece. The figures
 * of a plan are in defrag/fragmented.h.
 */
#ifndef ZCFS_FIGURES_H
#define ZCFS_FIGURES_H

#include "defrag/layout.h"

/* Fills in the figures of the volume as it is; those of afterwards are the same until figures_after. */
void figures_before(const struct scan *scan, struct volume_report *report);
/* The figures of afterwards are those of the volume as it is, after all. */
void figures_unchanged(struct volume_report *report);
/* Fills in the figures of afterwards. scan: of the result. */
void figures_after(const struct scan *scan, struct volume_report *report);
/* Adds what of the layout stays in pieces, and why. 0 or -errno. */
int figures_stays(const struct scan *scan, const struct layout *layout, struct volume_report *report);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * choose: what of a volume a selection means.
 */
#ifndef ZCFS_CHOOSE_H
#define ZCFS_CHOOSE_H

#include "defrag/layout.h"
#include "defrag/selection.h"

/* Marks the objects that the selection leaves out, and with them what is in one piece, PLAN_UNWANTED. found, an element
 * for each of selection->files, becomes 1 for those of which the volume has one; NULL: nobody asks. Reads the MFT
 * records of the files whose names it takes. 0 or -errno. */
int choose_objects(const struct scan *scan, const struct selection *selection, struct layout *layout, uint8_t *found);

#endif

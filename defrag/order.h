/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * order: in which order a volume is packed, if somebody wants another one than that of the MFT.
 */
#ifndef ZCFS_ORDER_H
#define ZCFS_ORDER_H

#include "defrag/layout.h"

/* *order becomes an array, the caller's to free, with the place of each of the layout's objects when they are sorted by
 * key: their length, or their file's path (ASCII letters without case, what does not fit into 4 KiB missing at the
 * front) or times. Equal ones keep the order of the MFT. Reads the files' MFT records. 0 or -errno. */
int order_objects(const struct scan *scan, const struct layout *layout, enum pack_order key, bool descending,
                  uint32_t **order);

#endif

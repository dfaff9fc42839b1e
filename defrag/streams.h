/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * streams: the part of a scan that looks at attributes as wholes, with all their extents, and at the attribute lists
 * that hold these together. Functions return 0, -errno, or 1: the report says what is wrong.
 */
#ifndef ZCFS_STREAMS_H
#define ZCFS_STREAMS_H

#include "defrag/scan.h"

/* Puts scan.attrs into order: by base, type, name, lowest VCN. 0 or -ENOMEM. */
int streams_sort(struct scan *s);
/* VCN borders, sizes, holes. */
int streams_check(struct scan *s, struct volume_report *report);
/* Every attribute list names all attributes of its file, each once. */
int streams_check_lists(struct scan *s, struct volume_report *report);

#endif

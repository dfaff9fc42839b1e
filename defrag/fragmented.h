/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * fragmented: what a volume's streams in several pieces are, and what a plan makes of them.
 */
#ifndef ZCFS_FRAGMENTED_H
#define ZCFS_FRAGMENTED_H

#include "defrag/layout.h"
#include "defrag/stream_name.h"

/* One of them; after: pieces by the plan; reason: why it is more than one then, if the plan knows. */
typedef int (*fragmented_found)(void *context, const struct attr *head, const struct stream_name *name,
                                const struct plan_object *object, uint64_t after, const char *reason);

/* Calls found for at most max of the layout's objects that are wanted, those in most pieces first. 0, -errno, or what
 * found returned.
 */
int fragmented_list(const struct scan *scan, const struct layout *layout, uint64_t max, fragmented_found found,
                    void *context);

/* How many files and streams are wanted in one piece, and how many the plan puts there: the figures of the report that
 * need no new scan. */
void fragmented_count(const struct scan *scan, const struct layout *layout, struct volume_report *report);

#endif

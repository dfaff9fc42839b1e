/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * discard: gives the host's space of an image's free clusters back, as a command. One thread.
 */
#ifndef ZCFS_TOOLS_DISCARD_H
#define ZCFS_TOOLS_DISCARD_H

#include "defrag/guest_pass.h"
#include "mapdb/image_discard.h"
#include "tools/defrag_options.h"
#include "tools/progress.h"

/* found: of a pass with find_free over the image, which has stayed open since. 0 (see report: it ends when the time is
 * up), -EINTR if the user stopped it, or as image_discard(). */
int discard_free(struct image *image, const struct pass_report *found, const struct defrag_options *options,
                 struct progress *progress, struct discard_report *report);

#endif

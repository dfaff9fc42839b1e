/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * defrag_image: what zcfs-defrag does with one image: finds it, waits for it if it may, opens it, and runs what the
 * options ask for: the guest pass (defrag/guest_pass.h) and its relatives. One thread.
 */
#ifndef ZCFS_DEFRAG_IMAGE_H
#define ZCFS_DEFRAG_IMAGE_H

#include "tools/defrag_options.h"
#include "tools/outcome.h"

/* path is as given; *outcome has its image and is otherwise empty. outcome_release() is due. */
void defrag_image(const char *path, const struct defrag_options *options, struct outcome *outcome);

#endif

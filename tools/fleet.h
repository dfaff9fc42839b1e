/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * fleet: zcfs-defrag --all: every image below some directories that nobody uses, a few at a time. Each is one
 * process's, so that nothing which happens to one concerns the others; their output does not mix. One thread.
 */
#ifndef ZCFS_FLEET_H
#define ZCFS_FLEET_H

#include <jansson.h>

#include "tools/defrag_options.h"
#include "tools/drawing.h"

/* Prints a line for each image and a summary for each directory, or appends to images (not NULL); a report has all
 * images with NTFS. The exit code: the gravest, but images in use do not count. */
int fleet_run(const struct defrag_options *options, json_t *images, struct drawing *drawing);

#endif

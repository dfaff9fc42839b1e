/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * drawing: what zcfs-defrag draws besides its text: --picture and --report.
 *
 * Files are begun before anything is done to an image, so that what cannot be written is known in time, and appear when
 * all is done. What goes wrong with a file is printed, and of an image nothing is changed by it.
 */
#ifndef ZCFS_DRAWING_H
#define ZCFS_DRAWING_H

#include "tools/defrag_options.h"
#include "tools/new_file.h"
#include "tools/outcome.h"

struct drawing {
	const struct defrag_options *options;
	struct new_file picture, report;
	/* Of the report, in temporary files: they are put together at the end, and a fleet's processes add to them. */
	FILE *index, *sections;
	size_t images;
};

/* False: something cannot be begun. */
bool drawing_begin(struct drawing *drawing, const struct defrag_options *options);
/* Prints or keeps what belongs to one image; after its text. */
void drawing_add(struct drawing *drawing, const struct outcome *outcome);
void drawing_finish(struct drawing *drawing);

#endif

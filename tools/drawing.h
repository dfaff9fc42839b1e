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

/* What belongs into a report, in temporary files: its index comes before its sections. NULL: no report. */
struct drawing_part {
	FILE *index, *sections;
};

struct drawing {
	const struct defrag_options *options;
	struct new_file picture, report;
	struct drawing_part part;
	size_t images; /* begun, for the report */
	bool failed;   /* a file is not what it should be, which has been told */
};

/* False: something cannot be begun. */
bool drawing_begin(struct drawing *drawing, const struct defrag_options *options);
/* Prints or keeps what belongs to one image; after its text. */
void drawing_add(struct drawing *drawing, const struct outcome *outcome);
/* False: a file could not be drawn or written. */
bool drawing_finish(struct drawing *drawing);

/* For a fleet: a part that a process of its own writes, of which its parent takes what it has become. number: of the
 * image. */
bool drawing_part_begin(struct drawing *drawing, struct drawing_part *part, size_t *number);
/* 0 or -ENOMEM; shows in the part's ferror(), too. */
int drawing_part_add(const struct drawing_part *part, const struct outcome *outcome, enum defrag_mode mode,
                     size_t number);
void drawing_part_end(const struct drawing_part *part);
/* complete: false drops it. */
void drawing_take(struct drawing *drawing, struct drawing_part *part, bool complete);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * check: everything that can be wrong with an image as it lies in a store, and the repair of what can be repaired without guessing.
 *
 * Looking changes nothing, not even an access time where the caller may prevent that (io_look): the database is copied
 * to a temporary directory (TMPDIR, else /tmp) under its reader's lock, and a hot journal is rolled back only there. An image in use can be
 * looked at, too; what would need it to stand still is then told as a note, or left out.
 *
 * Repair finishes what is unfinished (redo, journals, stale names) and takes away what is superfluous (space that no extent names,
 * an undo that cannot be used). It never touches a map.
 *
 * One thread for each report. Functions return 0 or -errno and print nothing.
 */
#ifndef ZCFS_CHECK_H
#define ZCFS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mapdb/image.h"

enum finding_kind {
	FINDING_BUNDLE,	  /* not a valid bundle: data or map.db missing, linked elsewhere, no regular file */
	FINDING_JOURNAL,  /* a transaction was cut short: its journal is to be rolled back */
	FINDING_DATABASE, /* map.db is no sound SQLite database of ours */
	FINDING_SCHEMA,	  /* its tables are not the documented ones */
	FINDING_MAP,	  /* the image map breaks an invariant of mapdb/image_map.h */
	FINDING_REDO,	  /* a committed change has not reached the data file yet, or cannot */
	FINDING_UNDO,	  /* the undo of the last pass is of no use */
	FINDING_HISTORY,  /* the table of runs is not consistent */
	FINDING_DATA,	  /* the data file does not have what the map names */
	FINDING_LEAK,	  /* space of the data file that no extent names */
	FINDING_LEFTOVER, /* a hidden entry that an interrupted change has left beside the image */
	FINDING_FOREIGN,  /* something in the bundle that does not belong there */
	FINDING_ACCESS,	  /* owner or mode would let others forge the bundle */
	FINDING_SKIPPED,  /* something could not be looked at */
	FINDING_KINDS,
};

const char *finding_kind_name(enum finding_kind kind); /* "bundle", "journal", ... */

#define FINDING_TEXT_MAX 384 /* a name of 255 bytes, and words */

struct finding {
	enum finding_kind kind;
	bool error;	 /* false: a note, worth knowing, but no fault */
	bool repairable; /* by check_repair */
	bool repaired;	 /* it was, as a second look has shown */
	uint64_t bytes;	 /* FINDING_LEAK: how much; otherwise 0 */
	char text[FINDING_TEXT_MAX];
};

struct check_report {
	enum name_kind kind; /* NAME_FILE: plain, there is little to check; else NAME_BUNDLE */
	bool in_use;	     /* somebody has the image open */
	bool map_known;	     /* the figures below are filled in */
	uint64_t size;	     /* bytes, as the guest sees it */
	uint64_t generation;
	uint64_t extents;
	size_t count;
	struct finding *findings;
	unsigned int omitted; /* further findings of kinds that were found often */
	char copy_directory[256]; /* after an error: where the copy was to be, if that is what has failed; otherwise empty */
};

/* Looks at parent_fd/name. stop (may be NULL) is asked now and then: true makes it -ECANCELED. 0: the report is complete, whatever it says.
 * -ENOENT; -EISDIR: a directory that is no bundle; -EINVAL: neither file nor directory; -EBUSY: the database stayed locked; -EACCES etc.: it
 * could not be looked at. check_report_free() is due in every case. */
int check_image(int parent_fd, const char *name, bool (*stop)(void), struct check_report *report);

/* Repairs what is repairable among the findings of report, looks again, and marks what is gone as repaired; what is found only then is
 * added. The image is locked like for a pass: -EBUSY if it is in use. -EUCLEAN and other errors: the image cannot be opened; what could be
 * done before that has been done and marked. */
int check_repair(const struct io *io, int parent_fd, const char *name, unsigned int lease_patience_ms,
		 bool (*stop)(void), struct check_report *report);

/* What changes that were interrupted have left in a directory, except for those of bundles, which are reported with them. repair removes
 * what is certain to be superfluous. */
int check_leftovers(const struct io *io, int parent_fd, bool repair, struct check_report *report);

size_t check_errors(const struct check_report *report, bool repaired); /* errors that are, or are not, repaired */
void check_report_free(struct check_report *report);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * selection: which files a pass is for, as the user says it: paths, patterns, numbers.
 *
 * A path is one within a volume, from its root on; slashes and backslashes are the same, and one at the beginning or the
 * end makes no difference. Upper and lower case are the same, as by the simple folding of Unicode, which for all that
 * has two cases agrees with NTFS's $UpCase. Patterns are fnmatch(3)'s: "*" is any characters, separators too; "?" and
 * "[...]" are one. What names a directory, or a pattern that one matches, stands for all below it as well.
 *
 * Matching takes time in proportion to the pattern's length times the path's, whatever is in the two. It is pure: the
 * selection is made before the sandbox, and used in it.
 */
#ifndef ZCFS_SELECTION_H
#define ZCFS_SELECTION_H

#include <locale.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mapdb/name_list.h"

struct selection {
	uint64_t min_fragments;   /* of a stream; 0: any number */
	uint64_t min_bytes;       /* that a stream takes on its volume */
	struct name_list files;   /* with or without the patterns of only: one of either is enough; none: every file */
	struct name_list only;
	struct name_list exclude; /* and none of these, by any name */
	locale_t locale;          /* in which text is UTF-8; with the first name */
};

void selection_release(struct selection *selection);

/* To an empty ({0}) or begun selection; list: one of its three. -EINVAL: no path within a volume (empty, or it begins
 * with a drive); -ENOMEM; -ENOENT: the system has no locale C.UTF-8. */
int selection_add_file(struct selection *selection, const char *path);
int selection_add_pattern(struct selection *selection, struct name_list *list, const char *pattern);

/* Whether anything is left out. */
bool selection_selects(const struct selection *selection);
/* Whether it takes a file's name to tell. */
bool selection_needs_names(const struct selection *selection);

/* What one path says of a file; a file with several names has all that any of them says. */
enum selection_match {
	SELECTION_MEANT = 1,
	SELECTION_EXCLUDED = 2, /* whatever its other names are */
};

/* What this path (UTF-8; changed to how patterns are written) says of its file: enum selection_match, or-ed. found,
 * unless NULL, has an element for each of files, which becomes 1 if the path is that file's or lies below it. */
unsigned int selection_match(const struct selection *selection, char *path, uint8_t *found);

static inline bool selection_chooses(unsigned int matches)
{
	return matches == SELECTION_MEANT;
}

#endif

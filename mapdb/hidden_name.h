/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * hidden_name: what the hidden entries are called that a change of an image makes beside it. What they are for, and
 * what is done about those that are left, is in image_stale.c. Looks at no file; any thread.
 *
 *     .NAME.zcfs-SUFFIX               of the image NAME
 *     .START.zcfs-long-HASH-SUFFIX    if that is longer than a name may be: START is the first part of NAME, HASH is of
 *                                     all of it, in 16 hex digits. So an image of any name can have hidden entries.
 */
#ifndef ZCFS_HIDDEN_NAME_H
#define ZCFS_HIDDEN_NAME_H

#include <stdbool.h>
#include <stdint.h>

#define NAME_LENGTH_MAX 255 /* NAME_MAX of every Linux file system that matters */

/* What a suffix begins with, but for HIDDEN_STAGING. Then come random letters, or for HIDDEN_REPLACE two numbers. */
#define REMOVED_MARK          "removed-"
#define REPLACE_MARK          "replace-"
#define PLAIN_MARK            "plain-"
#define HIDDEN_RANDOM_LETTERS 6

enum hidden_kind { HIDDEN_STAGING, HIDDEN_REMOVED, HIDDEN_PLAIN, HIDDEN_REPLACE };

struct hidden_name {
	enum hidden_kind kind;
	uint64_t new_inode, old_inode; /* HIDDEN_REPLACE */
	bool cut;
	uint64_t hash;                  /* if cut */
	char name[NAME_LENGTH_MAX + 1]; /* NAME; START if cut */
};

/* Makes the name of an entry. The suffix has at most 64 bytes. */
void hidden_name_make(const char *name, const char *suffix, char entry[NAME_LENGTH_MAX + 1]);

/* Reads the name of an entry; false if it is none of ours. */
bool hidden_name_parse(const char *entry, struct hidden_name *hidden);

/* True if an entry of that image's would have that name. If it is cut, one of another image's could have it, too, if
 * somebody has chosen their names for that. */
bool hidden_name_is_of(const struct hidden_name *hidden, const char *name);

#endif

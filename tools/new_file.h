/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * new_file: a file that appears under its name when it is complete, or not at all.
 *
 * It is written beside its name and renamed. What has the name then is replaced only if it is a regular file: a
 * symbolic link is not followed, and a device stays what it is. After a crash a ".NAME.XXXXXX" may be left.
 */
#ifndef ZCFS_NEW_FILE_H
#define ZCFS_NEW_FILE_H

#include <stdio.h>

struct new_file {
	FILE *file; /* to be written to; NULL: none */
	int directory_fd;
	char *name, *temporary;
};

/* -errno; -EEXIST: there is something of this name that is no regular file. */
int new_file_open(const char *path, struct new_file *file);
/* Durable when it has returned 0. -errno: as if it had never been written. */
int new_file_commit(struct new_file *file);
/* Without a commit: removes it. Of one that was never opened (zero-initialised) or is committed: nothing. */
void new_file_drop(struct new_file *file);

#endif

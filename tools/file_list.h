/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * file_list: the fragmented files of an image, as a pass tells of them: in memory, and as CSV (RFC 4180). Texts are the
 * guest's until they are printed.
 */
#ifndef ZCFS_FILE_LIST_H
#define ZCFS_FILE_LIST_H

#include <stddef.h>
#include <stdio.h>

#include "defrag/guest_pass.h"

#define WORST_FILES 20 /* of a volume, that are shown without being asked for */

/* path, stream and reason are the row's own. */
struct file_list {
	struct fragmented *rows; /* volume after volume, those in most pieces first */
	size_t count, capacity;
};

/* pass_options.fragmented; context is a struct file_list. -ENOMEM. */
int file_list_add(void *context, const struct fragmented *fragmented);
void file_list_release(struct file_list *list);

/* A new file with the line that names the columns. Replaces only such a list: somebody's disk image may be named by
 * mistake. 0; -EEXIST: there is something else under that name; -errno. */
int file_list_create(const char *path, FILE **out);
/* The rows of an image. What is wrong with the file shows in ferror(). -ENOMEM. */
int file_list_write(const struct file_list *list, const char *image, FILE *out);

#endif

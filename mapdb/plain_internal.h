/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What plain.c (names) and plain_file.c (content) share.
 */
#ifndef ZCFS_PLAIN_INTERNAL_H
#define ZCFS_PLAIN_INTERNAL_H

#include "mapdb/image_internal.h"
#include "mapdb/plain.h"

/* Fills the empty file fd with what the guest sees of the image, by report->method. */
int plain_fill(struct image *image, int fd, const struct plain_options *options, struct plain_report *report);

/* Before filling: what decides how the file's blocks are kept. Its own errors do not matter. */
void plain_copy_flags(int from_fd, int to_fd);
/* After filling: owner, mode, extended attributes, times (as they were in status). Set-user-ID bits and file
 * capabilities are lost, as with every change of owner. */
int plain_copy_attributes(int from_fd, const struct stat *status, int to_fd);

#endif

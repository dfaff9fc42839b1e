/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * directory: what in a directory may be an image or a directory of images. One thread.
 */
#ifndef ZCFS_DIRECTORY_H
#define ZCFS_DIRECTORY_H

#include "mapdb/name_list.h"

/* Appends the names in an open directory but those that are zcfs's own, and sorts the list. 0 or -errno; the list is
 * good either way. */
int directory_names(int directory_fd, struct name_list *list);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * file_handle: what the kernel hands back with each request for an open file. A handle is a reference to the inode's
 * open image; one on a copy of a database is the node itself.
 */
#ifndef ZCFS_FILE_HANDLE_H
#define ZCFS_FILE_HANDLE_H

#include <stdbool.h>

#include "fs/fuse_api.h"

/* A copy of a database has no image (open_image_of). */
static inline bool is_copy(const struct fuse_file_info *info)
{
	return info->fh == 0;
}

/* Whether what the request does must take set-user-ID and set-group-ID off the file. */
static inline bool kills_privileges(const struct fuse_file_info *info)
{
#ifdef ZCFS_FUSE_KILL_SUIDGID
	return info->kill_suidgid;
#else
	return false;
#endif
}

#endif

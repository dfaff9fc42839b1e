/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * locate: from a path that a user gives to the directory and name under which mapdb/image.h opens the image.
 *
 * A path inside a zcfs mount leads to the store below it, through MOUNT/.zcfs/store: locks, leases and bundles exist
 * only there. Any other path is taken as it is. Changes nothing; command-line tools only, one thread.
 */
#ifndef ZCFS_LOCATE_H
#define ZCFS_LOCATE_H

#include <stdbool.h>

#include "tools/identity.h"

struct location {
	int parent_fd; /* the directory that holds the image, opened for reading; -1: none */
	char *name;
	bool mounted;     /* reached through a mount */
	char remedy[256]; /* after an error: what the user can do about it, may be empty */
};

/* 0 or -errno:
 *   -ENOENT no such path; -ENOTDIR; -EACCES, -EPERM no right to look there: a mount, or the store below it, is another user's;
 *   -ENOTCONN the mount's daemon is gone; -EISDIR the path is the root of a file system or of a mount;
 *   -ENOTUNIQ the path leads into a bundle instead of to one.
 * location_release() is due in every case. */
int locate_image(const char *path, struct location *location);
/* The same for a directory: parent_fd is the directory itself, name stays NULL. */
int locate_directory(const char *path, struct location *location);
/* The image that was located, opened for reading through a mount that serves it: the descriptor. -ENOENT: no mount
 * does; -EBUSY: a tool is at work on it, whom that would disturb; otherwise why it could not be opened. */
int locate_through_mount(const struct location *location);
/* Whether it was reached through a mount, or lies in the store of one that we may look at. Opens no image. */
bool locate_is_served(const struct location *location);
/* Has the mounts that serve it find out what the name stands for now: what it stood for before they let go of, a moment later.
 * Opens no image. */
void locate_again(const struct location *location);
/* By which device and inode the image that was located is known, in the store and in the mounts that serve it and whose
 * store we may look at. Opens nothing, asks no mount yet; *image refers to location. -ENOENT: it is gone; -errno. */
int locate_identity(const struct location *location, struct identity *image);
void location_release(struct location *location);

#define LOCATION_INIT                                                                                                  \
	{                                                                                                              \
		.parent_fd = -1                                                                                        \
	}

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * identity: whether a path, a loop device or an open file is a certain image. Compared are device and inode, never
 * names: an image has one inode number in its store, and in each mount that serves it one that belongs to it
 * (mapdb/shown_inode.h; tools/locate.h knows them).
 * Changes nothing; one thread.
 */
#ifndef ZCFS_IDENTITY_H
#define ZCFS_IDENTITY_H

#include <stdbool.h>
#include <sys/types.h>

/* One image. */
struct identity {
	dev_t device; /* of the store's file system */
	ino_t inode;  /* there */
	/* Whether another device is that of a mount which serves the image, by that inode number. Asked only when the
	 * number could be it: a mount whose daemon hangs does not answer. NULL: no mount does. */
	bool (*serves)(const void *context, dev_t device, ino_t inode);
	const void *context;
};

bool identity_has(const struct identity *image, dev_t device, ino_t inode);
/* Whether a path leads to the image: itself, as a bundle, by symbolic links, or as a loop device that is attached to
 * it. False for what cannot be looked at; *error is then why (-errno), otherwise 0. error may be NULL. */
bool identity_is_path(const struct identity *image, const char *path, int *error);
/* Whether that block device is a loop device, or a part of one, that is attached to the image. */
bool identity_is_loop_device(const struct identity *image, const char *path);

#endif

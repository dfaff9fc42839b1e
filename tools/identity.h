/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * identity: whether a path, a loop device or an open file is a certain image. Compared are device and inode, never
 * names: an image has one pair in its store and one in each mount that serves it (tools/locate.h knows them).
 * Changes nothing; one thread.
 */
#ifndef ZCFS_IDENTITY_H
#define ZCFS_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define IDENTITIES_MAX 16

struct identity {
	dev_t device;
	ino_t inode;
};

/* One image. */
struct identity_set {
	size_t count;
	struct identity members[IDENTITIES_MAX];
};

/* What does not fit is left out: nobody mounts a store that often. */
void identity_add(struct identity_set *image, dev_t device, ino_t inode);
bool identity_has(const struct identity_set *image, dev_t device, ino_t inode);
/* Whether a path leads to the image: itself, as a bundle, by symbolic links, or as a loop device that is attached to
 * it. False for what cannot be looked at; *error is then why (-errno), otherwise 0. error may be NULL. */
bool identity_is_path(const struct identity_set *image, const char *path, int *error);
/* Whether that block device is a loop device, or a part of one, that is attached to the image. */
bool identity_is_loop_device(const struct identity_set *image, const char *path);

#endif

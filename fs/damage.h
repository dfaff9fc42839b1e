/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * damage: why an image is not served. A bundle whose database or map is damaged is listed, with the attributes of its data file,
 * but not opened: nobody is shown a guess. The reason is logged, and can be read as an extended attribute of the file in the mount.
 * Any thread.
 */
#ifndef ZCFS_DAMAGE_H
#define ZCFS_DAMAGE_H

#include <stddef.h>
#include <sys/types.h>

#include "fs/node.h"

/* Attributes with this prefix are the daemon's own: not stored, not to be set. */
#define DAMAGE_XATTR_PREFIX "user.zcfs."
#define DAMAGE_XATTR	    DAMAGE_XATTR_PREFIX "error"

/* The image at parent_fd/name could not be opened (-EUCLEAN): finds out why (as zcfs-check does, but for a few seconds at most), logs
 * and remembers it. */
void damage_note(struct node *node, int parent_fd, const char *name);

/* The value of DAMAGE_XATTR: the reason, found out now if the image cannot be opened. Bytes written (at most size), -ENODATA if there is
 * nothing wrong, -ENOMEM. size 0: only the length. */
ssize_t damage_xattr(struct node *node, char *value, size_t size);

#endif

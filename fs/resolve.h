/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * resolve: from a directory and a name to the inode that the mount shows there. No symbolic link is ever followed, so
 * nothing leads out of the store. Remembers nothing but the sizes of bundles (in their nodes). Any thread.
 */
#ifndef ZCFS_RESOLVE_H
#define ZCFS_RESOLVE_H

#include <sys/stat.h>

#include "fs/node.h"
#include "mapdb/image.h"

struct resolved {
	enum name_kind kind;
	int fd;             /* O_PATH; of a bundle: of its data */
	struct stat status; /* of fd; of a bundle: st_size is still the data file's */
	struct stat db;     /* of a bundle: its map.db's */
};

/* Resolves one name. Descriptor owned by the caller (resolved_release). -ENOENT also for names that are reserved;
 * -EUCLEAN for a directory that has a map.db but is no bundle: logged here. */
int resolve_name(int parent_fd, const char *name, struct resolved *out);
void resolved_release(struct resolved *resolved);

#define cleanup_resolved __attribute__((cleanup(resolved_release)))

/* Replaces st_size of a bundle by the image's size; does nothing for anything else, and for one whose database is
 * damaged. -EBUSY: a change is being committed. */
int resolve_image_size(int parent_fd, const char *name, struct resolved *resolved);

/* What the mount shows for a node that is known already. -ESTALE: not found where it was last seen. */
int resolve_node_status(struct node *node, struct stat *status);

/* True if the mount hides the name or does not let anyone make it. */
bool name_hidden(const struct node *parent, const char *name);

#endif

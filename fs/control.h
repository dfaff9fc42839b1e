/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * control: MOUNT/.zcfs, which readdir of the root does not list.
 *
 *     .zcfs/store            symbolic link to the store below an over-mount (/proc/PID/fd/N of the daemon)
 *     .zcfs/db/NAME.db       a consistent, read-only copy of the map database of the bundle NAME
 *     .zcfs/db/DIRECTORY/... the same for what is in directories
 *
 * A copy is made when its name is looked up and never changes afterwards; every lookup makes another one, with an inode
 * number of its own. Everything belongs to the daemon's user and is closed to others. Any thread.
 */
#ifndef ZCFS_CONTROL_H
#define ZCFS_CONTROL_H

#include <dirent.h>
#include <stdbool.h>

#include "fs/node.h"

#define CONTROL_DB_SUFFIX ".db"

/* Makes the fixed nodes. After the daemon's last fork. */
int control_init(void);

int control_root_entry(struct fuse_entry_param *entry);
/* A name in a control directory. -EBUSY: a tool holds the image's lock, and no lease by which it could be seen. */
int control_lookup(struct node *parent, const char *name, struct fuse_entry_param *entry);
void control_attributes(const struct node *node, struct stat *status);
void control_store_target(char *target, size_t size);

/* The listing of .zcfs itself. Returns the bytes used. */
size_t control_root_list(fuse_req_t req, char *buffer, size_t size, off_t off, bool plus);
/* Whether an entry of a directory appears in its mirror below .zcfs/db, and how. status is the one readdir would list.
 */
bool control_db_listed(const struct dirent *entry, struct stat *status, char name[]);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * vfs: the SQLite VFS through which map databases are opened, so that every byte that SQLite reads or writes goes through
 * a struct io, and so that a database is named by a directory descriptor and a plain name instead of a path.
 *
 * Each open database has an instance of its own, registered under a unique name. Locks are open file description locks on
 * the bytes that SQLite's own unix VFS uses, so the sqlite3 command in another process and several opens in one process
 * exclude each other properly. No shared memory, hence no WAL; no memory mapping; no temporary files.
 * Registration is thread-safe (SQLite's own mutex); an instance is used by one connection.
 */
#ifndef ZCFS_VFS_H
#define ZCFS_VFS_H

#include <stdbool.h>

#include "mapdb/io.h"

struct vfs;

/* Makes and registers a VFS for the database MAP_DB_NAME in dir_fd, which looks for no other names but those that SQLite
 * makes of this one. The descriptor is borrowed: it must stay open as long as the VFS.
 * create_new: a main database that is opened with SQLITE_OPEN_CREATE must not exist yet.
 * -ENOMEM. */
int vfs_new(const struct io *io, int dir_fd, bool create_new, struct vfs **out);

/* The same for one database kept in a file that is open already and nobody else's, by the same name; no journal,
 * no locks. Borrowed as well. */
int vfs_new_for_file(const struct io *io, int file_fd, struct vfs **out);

/* After the connection is closed. NULL is allowed. */
void vfs_free(struct vfs *vfs);

const char *vfs_name(const struct vfs *vfs); /* for sqlite3_open_v2 */

/* The errno of the last operation that failed, 0 if none has; SQLite's own result says less. */
int vfs_last_errno(const struct vfs *vfs);
void vfs_clear_errno(struct vfs *vfs);

#endif

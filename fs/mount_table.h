/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * mount_table: what is mounted where, from /proc/self/mountinfo; and the removal of mounts. But for mount_table_unmount
 * used at start, before there are threads, and at the end.
 */
#ifndef ZCFS_MOUNT_TABLE_H
#define ZCFS_MOUNT_TABLE_H

#include <stdbool.h>

/* The absolute path of a directory that need not be alive: of a dead mount all but the last component is resolved.
 * NULL with errno set; to be freed. */
char *mount_table_absolute(const char *path);

/* True if the descriptor's file is anywhere inside a live mount of zcfs. */
bool mount_table_inside_zcfs(int fd);

/* Unmounts what is on top at this absolute path, lazily. 0 or -errno. Any thread. */
int mount_table_unmount(const char *path);

/* Unmounts what killed daemons have left at this absolute path. 0 also if there was nothing to do; -errno: it is still
 * there. */
int mount_table_clear_dead(const char *path);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * background: the daemon as a process that outlives who has started it.
 *
 * The process that was started forks. The child serves; the parent waits until the mount has answered it, so that
 * whoever started zcfs can use the mount, or read on standard error why there is none. At start, before there are
 * threads.
 */
#ifndef ZCFS_BACKGROUND_H
#define ZCFS_BACKGROUND_H

/* Forks; the store is the child's. Returns in the child only: the parent ends when the mount answers, or there is none.
 */
void background_start(const char *mount_path);

/* The mount is there: from here on the parent asks the mount itself whether it answers, and messages go to the system
 * log. Without background_start nothing. */
void background_ready(void);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * lock_table: who holds locks or leases on a file, as the kernel tells in /proc/locks. Only a hint: it may have changed when the
 * answer is read, and holders in other PID namespaces are not shown. But it disturbs nobody, while opening a file breaks its lease. Any thread.
 */
#ifndef ZCFS_LOCK_TABLE_H
#define ZCFS_LOCK_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

struct lock_holder {
	pid_t pid;
	bool lease;	  /* a lease; else flock() */
	bool write;	  /* exclusive */
};

/* Fills out with the holders of flocks and leases on the inode, max at most; how many. */
size_t lock_holders(const struct stat *status, struct lock_holder *out, size_t max);
/* Whether somebody has a write lease on it, as tools do, which opening it would break or has begun to. */
bool lock_leased(const struct stat *status);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * caller: makes new files belong to whoever asked for them, and keeps others' names in sticky directories from him. A
 * privileged daemon takes on the file system user and group of the caller for the time of one system call; the kernel
 * has checked permissions before (default_permissions), with supplementary groups and all, so the right to override
 * them is kept. Affects only the calling thread.
 */
#ifndef ZCFS_CALLER_H
#define ZCFS_CALLER_H

#include <stdbool.h>
#include <sys/stat.h>

#include "fs/fuse_api.h"

/* 0, or -EPERM if the daemon may not become that user. Always followed by caller_leave() in the same thread. */
int caller_become(fuse_req_t req);
void caller_leave(void);

/* Whether the caller may take away the name under which victim has just been found: -ESTALE if the directory is sticky
 * and he owns neither. The kernel has checked that for what it remembers under the name, and on -ESTALE looks again and
 * refuses. What takes victim's place between that look and the call that takes the name away goes unnoticed. Of a
 * bundle it is the data's owner that counts, as in the mount; its directory may be another's. That is why this is not
 * left to the host, by becoming the caller. CAP_FOWNER cannot be told from here: of those who own neither, only root
 * may. */
int caller_check_sticky(fuse_req_t req, int parent_fd, const struct stat *victim);

/* True for root, and for whoever is in the group by any of his own; false if those cannot be told. */
bool caller_in_group(fuse_req_t req, gid_t group);

/* True if a request that waits should end with EINTR: the kernel has reported a signal, and it is one that the caller
 * must act upon: it kills him or he catches it. The kernel reports any signal, and each request only once; to a child's
 * end that nobody asked to be told of, rename(2) must not answer with an error that no other file system gives. With
 * rings it goes by the caller alone. Any thread. */
bool caller_gives_up(fuse_req_t req);

#endif

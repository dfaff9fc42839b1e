/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * caller: makes new files belong to whoever asked for them. A privileged daemon takes on the file system user and group
 * of the caller for the time of one system call; the kernel has checked permissions before (default_permissions), with
 * supplementary groups and all, so the right to override them is kept. Affects only the calling thread.
 */
#ifndef ZCFS_CALLER_H
#define ZCFS_CALLER_H

#include <stdbool.h>

#include "fs/fuse_api.h"

/* 0, or -EPERM if the daemon may not become that user. Always followed by caller_leave() in the same thread. */
int caller_become(fuse_req_t req);
void caller_leave(void);

/* True if a request that waits should end with EINTR: the kernel has reported a signal, and it is one that the caller
 * must act upon: it kills him or he catches it. The kernel reports any signal, and each request only once; to a child's
 * end that nobody asked to be told of, rename(2) must not answer with an error that no other file system gives. With
 * rings it goes by the caller alone. Any thread. */
bool caller_gives_up(fuse_req_t req);

#endif

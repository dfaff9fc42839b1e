/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * serve: the transport of requests, /dev/fuse or FUSE over io_uring, and the loop that takes them.
 */
#ifndef ZCFS_SERVE_H
#define ZCFS_SERVE_H

#include <stdbool.h>

#include "fs/options.h"

/* How many requests a ring holds. Each processor has a ring. The memory for the data of one request, 1 MiB, is only
 * there once it was needed; all rings together may need RING_MEMORY_MAX at most, unless RING_DEPTH_MIN is more. */
#define RING_DEPTH_MIN  8u
#define RING_DEPTH_MAX  128u
#define RING_MEMORY_MAX (1024u << 20) /* bytes */

/* Decides between rings and /dev/fuse, as options and kernel allow, and tells libfuse by its arguments. Before the
 * session is made. False: rings were demanded but cannot be had, and it was said why. */
bool serve_choose_transport(struct options *options);

/* Catches the signals that end the daemon; before the mount is made. 0 or -errno. */
int serve_prepare(struct fuse_session *session, const struct options *options);

/* Whatever may fail of serving, before anybody is told that he can use the mount; but libfuse starts its own threads,
 * for /dev/fuse, only in serve(). 0 or -errno: then serve_end(). */
int serve_start(struct fuse_session *session, const struct options *options);

/* Instead of serve(): ends what was started, and unmounts. The session must not be used any more. */
void serve_end(struct fuse_session *session);

/* Takes requests until the mount, which is at this absolute path, is gone or a signal says so; then unmounts, and waits
 * for what is being done. Returns the exit status. The process should end, as threads may still be waiting for requests.
 */
int serve(struct fuse_session *session, const struct options *options, const char *mount_path);

#endif

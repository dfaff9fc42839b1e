/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * worker: the child's side of a guest pass: it looks at the guest's metadata, plans, rewrites in memory, proves, and
 * sends.
 */
#ifndef ZCFS_WORKER_H
#define ZCFS_WORKER_H

#include "defrag/guest_pass.h"

/* Runs in the child; sends messages (defrag/message.h) to write_fd. Returns 0 if MESSAGE_END was sent, else -errno. */
int worker_run(const struct image *image, const struct pass_options *options, int write_fd, int scratch_fd);

#endif

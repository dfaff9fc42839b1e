/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * negotiate: the first request, in which kernel and daemon agree upon what each can do.
 */
#ifndef ZCFS_NEGOTIATE_H
#define ZCFS_NEGOTIATE_H

#include "fs/fuse_api.h"

#define REQUEST_SIZE_MAX (1u << 20) /* bytes of one read or write, unless the kernel wants less */

void negotiate(void *unused, struct fuse_conn_info *connection);

#endif

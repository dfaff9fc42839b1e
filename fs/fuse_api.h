/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The version of libfuse's interface that fs/ is written against, in one place.
 */
#ifndef ZCFS_FUSE_API_H
#define ZCFS_FUSE_API_H

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * loop_devices: the loop device that is attached to an image. One thread.
 */
#ifndef ZCFS_LOOP_DEVICES_H
#define ZCFS_LOOP_DEVICES_H

#include "tools/users.h"

/* True: *user has been filled in. */
bool loop_device_find(const struct identity *image, struct image_user *user);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * data: reads and writes of an open image. The thread model is told in data.c. Any thread.
 */
#ifndef ZCFS_DATA_H
#define ZCFS_DATA_H

#include <sys/types.h>

#include "fs/open_image.h"

/* Like pread(2) and pwrite(2): how many bytes, or -errno. A write past the end makes the image grow. */
ssize_t data_read(struct open_image *image, uint8_t *buffer, size_t length, uint64_t guest_off);
ssize_t data_write(struct open_image *image, const uint8_t *buffer, size_t length, uint64_t guest_off);

#endif

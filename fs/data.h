/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * data: reads and writes of an open image. The thread model is told in data.c. Any thread.
 */
#ifndef ZCFS_DATA_H
#define ZCFS_DATA_H

#include <sys/types.h>

#include "fs/open_image.h"

enum {
	DATA_NOW = 1,    /* -EAGAIN rather than to wait for the disk or for anybody else: of writes, all but into memory */
	DATA_SYNC = 2,   /* a write that is on the disk when it is done (O_DSYNC) */
	DATA_DIRECT = 4, /* past the host's cache where that is possible (O_DIRECT): waits, see fs/transfer.h */
};

/* Like pread(2) and pwrite(2): how many bytes, or -errno. A write past the end makes the image grow; -EBUSY: somebody
 * outside has the database that this takes (try again later). After -EAGAIN some of it may have been done. */
ssize_t data_read(struct open_image *image, uint8_t *buffer, size_t length, uint64_t guest_off, int flags);
ssize_t data_write(struct open_image *image, const uint8_t *buffer, size_t length, uint64_t guest_off, int flags);

/* False if reads and writes with these flags go past the host's cache, where they can. */
bool data_by_cache(const struct open_image *image, int flags);

/* The descriptor for a write past the host's cache, within the size of a bundle (live; NULL: a plain image); -1:
 * through it. The map is borrowed or pinned. */
int data_direct_write_fd(const struct open_image *image, const struct live_map *live, const uint8_t *buffer,
                         size_t length, uint64_t off);

#endif

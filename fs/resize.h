/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * resize: the size and the allocation of an open image: truncate, fallocate, holes.
 *
 * A bundle grows so: the data file gets longer, what the new space might show is punched, then the database commits the
 * new map. It shrinks so: the database commits first, then the host space is given back. A crash in between costs host
 * bytes that no extent names, never a guest byte. Any thread; takes image->change.
 */
#ifndef ZCFS_RESIZE_H
#define ZCFS_RESIZE_H

#include <stdint.h>
#include <sys/types.h>

#include "fs/open_image.h"

/* Cuts or grows to size bytes. -EROFS; -EFBIG from the host; -EBUSY: somebody else has the database open (try again).
 */
int resize_image(struct open_image *image, uint64_t size);
/* Grows to size bytes if the image is smaller. */
int resize_grow_to(struct open_image *image, uint64_t size);

/* fallocate(2) with FALLOC_FL_KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE. -EOPNOTSUPP for anything else. */
int resize_fallocate(struct open_image *image, int mode, uint64_t guest_off, uint64_t length);

/* lseek(2) with SEEK_DATA or SEEK_HOLE, through the map: the guest offset found, or -errno. */
off_t resize_seek(struct open_image *image, uint64_t guest_off, int whence);

#endif

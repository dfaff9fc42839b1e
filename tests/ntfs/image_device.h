// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * libntfs-3g on a volume at an offset in an image file, for the test tools. The file is mapped: the library's many
 * small reads and writes are memory copies. One volume at a time, single-threaded. Nothing is durable before the
 * process ends.
 */
#ifndef IMAGE_DEVICE_H
#define IMAGE_DEVICE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#include <ntfs-3g/types.h>

#include <ntfs-3g/volume.h>

/* Mounts the volume at @offset bytes in @image; NULL and errno if that fails. ntfs_umount() undoes everything. */
ntfs_volume *image_mount(const char *image, uint64_t offset, ntfs_mount_flags flags);

#endif

// SPDX-License-Identifier: GPL-2.0-or-later
/* Growing $MFT with libntfs-3g; apart from image_device.h because its names clash with those of ntfs_format.h. */
#ifndef IMAGE_GROW_H
#define IMAGE_GROW_H

#include <stdint.h>

/* Makes sure that @nr MFT records are free, as far as there is room for them. 0, or -1 and errno. */
int image_spare_records(const char *image, uint64_t offset, uint64_t nr);

#endif

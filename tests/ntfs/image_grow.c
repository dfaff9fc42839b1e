// SPDX-License-Identifier: GPL-2.0-or-later
#include "image_grow.h"

#include "image_device.h"

#include <ntfs-3g/inode.h>
#include <ntfs-3g/mft.h>
#include <stdlib.h>

/* Allocates records, which grows $MFT and its bitmap, and frees them again. */
int image_spare_records(const char *image, uint64_t offset, uint64_t nr)
{
	ntfs_inode **ni = calloc(nr, sizeof(*ni));
	ntfs_volume *vol = ni ? image_mount(image, offset, NTFS_MNT_NONE) : NULL;
	uint64_t got = 0;
	int rc = vol ? 0 : -1;

	while (vol && got < nr && (ni[got] = ntfs_mft_record_alloc(vol, NULL)))
		got++;
	for (uint64_t i = 0; i < got; i++)
		if (ntfs_mft_record_free(vol, ni[i]))
			rc = -1;
	if (vol && ntfs_umount(vol, FALSE))
		rc = -1;
	free(ni);
	return rc;
}

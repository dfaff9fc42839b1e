/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "mapdb/cleanup.h"
#include "mapdb/image.h"
#include "mapdb/shown_inode.h"

bool identity_has(const struct identity *image, dev_t device, ino_t inode)
{
	if (device == image->device)
		return inode == image->inode;
	return ((inode ^ image->inode) & SHOWN_INODE_KEPT) == 0 && image->serves &&
	       image->serves(image->context, device, inode);
}

bool identity_is_loop_device(const struct identity *image, const char *path)
{
	struct loop_info64 info;
	cleanup_fd int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	return fd >= 0 && ioctl(fd, LOOP_GET_STATUS64, &info) == 0 &&
	       identity_has(image, info.lo_device, info.lo_inode);
}

bool identity_is_path(const struct identity *image, const char *path, int *error)
{
	struct stat status;
	cleanup_free char *data = NULL;
	int failed = stat(path, &status) < 0 ? -errno : 0;

	if (!failed && S_ISDIR(status.st_mode)) { /* a bundle whose store is not mounted? */
		if (asprintf(&data, "%s/" BUNDLE_DATA_NAME, path) < 0)
			failed = -ENOMEM;
		else if (stat(data, &status) < 0)
			failed = -errno;
	}
	if (error)
		*error = failed;
	if (failed)
		return false;
	if (S_ISBLK(status.st_mode))
		return identity_is_loop_device(image, path);
	return identity_has(image, status.st_dev, status.st_ino);
}

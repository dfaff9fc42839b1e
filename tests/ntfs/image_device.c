// SPDX-License-Identifier: GPL-2.0-or-later
#include "image_device.h"

#include <errno.h>
#include <fcntl.h>
#include <ntfs-3g/device.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct image {
	int fd;
	uint8_t *map; /* the whole file; NULL where it cannot be mapped */
	uint64_t offset, size;
	uint64_t pos;
};

static int image_open(struct ntfs_device *dev, int flags)
{
	struct image *im = dev->d_private;
	bool ro = (flags & O_ACCMODE) == O_RDONLY;
	off_t end;

	if (NDevOpen(dev)) {
		errno = EBUSY;
		return -1;
	}
	im->fd = open(dev->d_name, flags | O_CLOEXEC);
	if (im->fd < 0)
		return -1;
	end = lseek(im->fd, 0, SEEK_END);
	if (end < 0 || (uint64_t)end <= im->offset) {
		close(im->fd);
		errno = EINVAL;
		return -1;
	}
	im->size = (uint64_t)end - im->offset;
	im->map = mmap(NULL, (size_t)end, ro ? PROT_READ : PROT_READ | PROT_WRITE, ro ? MAP_PRIVATE : MAP_SHARED,
	               im->fd, 0);
	if (im->map == MAP_FAILED)
		im->map = NULL;
	NDevSetOpen(dev);
	if (ro)
		NDevSetReadOnly(dev);
	return 0;
}

static int image_close(struct ntfs_device *dev)
{
	struct image *im = dev->d_private;

	if (im->map)
		munmap(im->map, im->offset + im->size);
	close(im->fd);
	NDevClearOpen(dev);
	free(im);
	dev->d_private = NULL;
	return 0;
}

static s64 image_seek(struct ntfs_device *dev, s64 offset, int whence)
{
	struct image *im = dev->d_private;
	int64_t from = whence == SEEK_CUR ? (int64_t)im->pos : whence == SEEK_END ? (int64_t)im->size : 0;

	if (from + offset < 0) {
		errno = EINVAL;
		return -1;
	}
	im->pos = (uint64_t)(from + offset);
	return (s64)im->pos;
}

static s64 image_pread(struct ntfs_device *dev, void *buf, s64 count, s64 pos)
{
	struct image *im = dev->d_private;

	if (count < 0 || pos < 0 || (uint64_t)pos >= im->size)
		return 0;
	if ((uint64_t)count > im->size - (uint64_t)pos)
		count = (s64)(im->size - (uint64_t)pos);
	if (!im->map)
		return pread(im->fd, buf, (size_t)count, (off_t)(im->offset + (uint64_t)pos));
	memcpy(buf, im->map + im->offset + pos, (size_t)count);
	return count;
}

static s64 image_pwrite(struct ntfs_device *dev, const void *buf, s64 count, s64 pos)
{
	struct image *im = dev->d_private;

	if (NDevReadOnly(dev)) {
		errno = EROFS;
		return -1;
	}
	if (count < 0 || pos < 0 || (uint64_t)pos > im->size || (uint64_t)count > im->size - (uint64_t)pos) {
		errno = ENOSPC;
		return -1;
	}
	if (!im->map)
		return pwrite(im->fd, buf, (size_t)count, (off_t)(im->offset + (uint64_t)pos));
	memcpy(im->map + im->offset + pos, buf, (size_t)count);
	return count;
}

static s64 image_read(struct ntfs_device *dev, void *buf, s64 count)
{
	struct image *im = dev->d_private;
	s64 n = image_pread(dev, buf, count, (s64)im->pos);

	if (n > 0)
		im->pos += (uint64_t)n;
	return n;
}

static s64 image_write(struct ntfs_device *dev, const void *buf, s64 count)
{
	struct image *im = dev->d_private;
	s64 n = image_pwrite(dev, buf, count, (s64)im->pos);

	if (n > 0)
		im->pos += (uint64_t)n;
	return n;
}

static int image_sync(struct ntfs_device *dev)
{
	NDevClearDirty(dev);
	return 0;
}

static int image_stat(struct ntfs_device *dev, struct stat *st)
{
	struct image *im = dev->d_private;
	return fstat(im->fd, st);
}

static int image_ioctl(struct ntfs_device *dev, unsigned long request, void *argp)
{
	errno = EOPNOTSUPP;
	return -1;
}

static struct ntfs_device_operations image_ops = {
        .open = image_open,
        .close = image_close,
        .seek = image_seek,
        .read = image_read,
        .write = image_write,
        .pread = image_pread,
        .pwrite = image_pwrite,
        .sync = image_sync,
        .stat = image_stat,
        .ioctl = image_ioctl,
};

ntfs_volume *image_mount(const char *image, uint64_t offset, ntfs_mount_flags flags)
{
	struct image *im = calloc(1, sizeof(*im));
	struct ntfs_device *dev;
	ntfs_volume *vol;
	int err;

	if (!im)
		return NULL;
	im->offset = offset;
	dev = ntfs_device_alloc(image, 0, &image_ops, im);
	if (!dev) {
		free(im);
		return NULL;
	}
	vol = ntfs_device_mount(dev, flags);
	if (!vol) {
		err = errno;
		free(dev->d_private); /* NULL if the library has closed the device */
		ntfs_device_free(dev);
		errno = err;
	}
	return vol;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * io_look: reads, and can do nothing else.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "mapdb/io.h"

static int look_open(const struct io *io, int dir_fd, const char *path, int flags, mode_t mode)
{
	if ((flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC))
		return -EROFS;
	/* O_PATH opens nothing, and takes no such flag. */
	int fd = flags & O_PATH ? -EPERM : io_posix.open(&io_posix, dir_fd, path, flags | O_NOATIME, 0);
	/* Only the owner may ask for it. */
	return fd == -EPERM ? io_posix.open(&io_posix, dir_fd, path, flags, 0) : fd;
}

static int look_close(const struct io *io, int fd)
{
	return io_posix.close(&io_posix, fd);
}

static ssize_t look_pread(const struct io *io, int fd, void *buffer, size_t length, uint64_t off)
{
	return io_posix.pread(&io_posix, fd, buffer, length, off);
}

static ssize_t no_pwrite(const struct io *io, int fd, const void *buffer, size_t length, uint64_t off)
{
	return -EROFS;
}

static int no_sync(const struct io *io, int fd)
{
	return -EROFS;
}

static int no_ftruncate(const struct io *io, int fd, uint64_t size)
{
	return -EROFS;
}

static int no_fallocate(const struct io *io, int fd, int mode, uint64_t off, uint64_t length)
{
	return -EROFS;
}

static int no_clone(const struct io *io, int from_fd, uint64_t from_off, uint64_t length, int to_fd, uint64_t to_off)
{
	return -EROFS;
}

static int no_link(const struct io *io, int old_dir_fd, const char *old_name, int new_dir_fd, const char *new_name)
{
	return -EROFS;
}

static int no_rename(const struct io *io, int old_dir_fd, const char *old_name, int new_dir_fd, const char *new_name,
                     unsigned int flags)
{
	return -EROFS;
}

static int no_unlink(const struct io *io, int dir_fd, const char *name, int flags)
{
	return -EROFS;
}

static int no_mkdir(const struct io *io, int dir_fd, const char *name, mode_t mode)
{
	return -EROFS;
}

const struct io io_look = {
        .open = look_open,
        .close = look_close,
        .pread = look_pread,
        .pwrite = no_pwrite,
        .fdatasync = no_sync,
        .fsync = no_sync,
        .ftruncate = no_ftruncate,
        .fallocate = no_fallocate,
        .clone = no_clone,
        .link = no_link,
        .rename = no_rename,
        .unlink = no_unlink,
        .mkdir = no_mkdir,
};

int io_look_entries(int dir_fd, int (*visit)(void *context, const char *entry), void *context)
{
	int fd = look_open(&io_look, dir_fd, ".", O_RDONLY | O_DIRECTORY, 0);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);
	int rc = 0;

	if (fd < 0)
		return fd;
	if (!directory) {
		close(fd);
		return -ENOMEM;
	}
	while (rc == 0) {
		errno = 0;
		struct dirent *entry = readdir(directory);
		if (!entry) {
			rc = errno == ENOENT ? 0 : -errno; /* removed meanwhile: it has no entries */
			break;
		}
		rc = visit(context, entry->d_name);
	}
	closedir(directory);
	return rc;
}

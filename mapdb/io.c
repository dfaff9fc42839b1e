/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * io_posix: the system calls themselves.
 */
#include "mapdb/io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A rename anywhere above can make a RESOLVE_BENEATH walk fail with EAGAIN although nothing is wrong. */
#define OPEN_AGAIN_MAX 64

int io_error(void)
{
	return errno == EUCLEAN || errno == EBADMSG ? -EIO : -errno;
}

/* Repeats a call that a signal interrupted; the value is the call's, or -errno. */
#define RESTARTED(call)                                                                                                \
	({                                                                                                             \
		__typeof__(call) result_;                                                                              \
		do                                                                                                     \
			result_ = (call);                                                                              \
		while (result_ < 0 && errno == EINTR);                                                                 \
		result_ < 0 ? io_error() : result_;                                                                    \
	})

static int posix_open(const struct io *io, int dir_fd, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
	        .flags = (uint64_t)(unsigned int)(flags | O_CLOEXEC),
	        .mode = flags & O_CREAT ? mode & 07777 : 0,
	        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
	};
	long fd = -EAGAIN;

	for (int i = 0; fd == -EAGAIN && i < OPEN_AGAIN_MAX; i++) {
		fd = RESTARTED(syscall(SYS_openat2, dir_fd, path, &how, sizeof how));
		/* A lease looks the same, and is nothing to insist on: each try is one more call for it to be broken.
		 */
		if (fd == -EAGAIN && flags & O_NONBLOCK)
			break;
	}
	/* Containers and valgrind may not know the call. For a plain name O_NOFOLLOW says the same. */
	if (fd == -ENOSYS && !strchr(path, '/') && strcmp(path, "..") != 0)
		fd = RESTARTED(openat(dir_fd, path, flags | O_NOFOLLOW | O_CLOEXEC, mode));
	return (int)fd;
}

static int posix_close(const struct io *io, int fd)
{
	/* The descriptor is gone even after EINTR. */
	return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

static ssize_t posix_pread(const struct io *io, int fd, void *buffer, size_t length, uint64_t off)
{
	return RESTARTED(pread(fd, buffer, length, (off_t)off));
}

static ssize_t posix_pwrite(const struct io *io, int fd, const void *buffer, size_t length, uint64_t off)
{
	return RESTARTED(pwrite(fd, buffer, length, (off_t)off));
}

static int posix_fdatasync(const struct io *io, int fd)
{
	return RESTARTED(fdatasync(fd));
}

static int posix_fsync(const struct io *io, int fd)
{
	return RESTARTED(fsync(fd));
}

static int posix_ftruncate(const struct io *io, int fd, uint64_t size)
{
	return RESTARTED(ftruncate(fd, (off_t)size));
}

static int posix_fallocate_mode(const struct io *io, int fd, int mode, uint64_t off, uint64_t length)
{
	return RESTARTED(fallocate(fd, mode, (off_t)off, (off_t)length));
}

static int posix_clone(const struct io *io, int from_fd, uint64_t from_off, uint64_t length, int to_fd, uint64_t to_off)
{
	struct file_clone_range range = {
	        .src_fd = from_fd, .src_offset = from_off, .src_length = length, .dest_offset = to_off};
	int rc = RESTARTED(ioctl(to_fd, FICLONERANGE, &range));

	return rc == -ENOTTY || rc == -EXDEV || rc == -ENOSYS ? -EOPNOTSUPP : rc;
}

static int posix_link(const struct io *io, int old_dir_fd, const char *old_name, int new_dir_fd, const char *new_name)
{
	return RESTARTED(linkat(old_dir_fd, old_name, new_dir_fd, new_name, 0));
}

static int posix_rename(const struct io *io, int old_dir_fd, const char *old_name, int new_dir_fd, const char *new_name,
                        unsigned int flags)
{
	return RESTARTED(renameat2(old_dir_fd, old_name, new_dir_fd, new_name, flags));
}

static int posix_unlink(const struct io *io, int dir_fd, const char *name, int flags)
{
	return RESTARTED(unlinkat(dir_fd, name, flags));
}

static int posix_mkdir(const struct io *io, int dir_fd, const char *name, mode_t mode)
{
	return RESTARTED(mkdirat(dir_fd, name, mode));
}

int io_fill_standard_fds(void)
{
	/* Each gets the lowest number that is free, which is its own; not O_CLOEXEC, they are for children, too. */
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
			return -errno;
	}
	return 0;
}

const struct io io_posix = {
        .open = posix_open,
        .close = posix_close,
        .pread = posix_pread,
        .pwrite = posix_pwrite,
        .fdatasync = posix_fdatasync,
        .fsync = posix_fsync,
        .ftruncate = posix_ftruncate,
        .fallocate = posix_fallocate_mode,
        .clone = posix_clone,
        .link = posix_link,
        .rename = posix_rename,
        .unlink = posix_unlink,
        .mkdir = posix_mkdir,
};

int io_pread_full(const struct io *io, int fd, void *buffer, size_t length, uint64_t off)
{
	uint8_t *to = buffer;

	while (length > 0) {
		ssize_t n = io->pread(io, fd, to, length, off);
		if (n < 0)
			return (int)n;
		if (n == 0) {
			memset(to, 0, length);
			return 0;
		}
		to += n;
		off += (uint64_t)n;
		length -= (size_t)n;
	}
	return 0;
}

int io_pwrite_full(const struct io *io, int fd, const void *buffer, size_t length, uint64_t off)
{
	const uint8_t *from = buffer;

	while (length > 0) {
		ssize_t n = io->pwrite(io, fd, from, length, off);
		if (n < 0)
			return (int)n;
		if (n == 0) /* not for regular files; never loop on it */
			return -EIO;
		from += n;
		off += (uint64_t)n;
		length -= (size_t)n;
	}
	return 0;
}

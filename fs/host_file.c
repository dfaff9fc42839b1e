/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/host_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

static void leave_access_time(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0)
		(void)fcntl(fd, F_SETFL, flags | O_NOATIME);
}

void host_file_init(struct host_file *file, int fd)
{
	struct statfs status;

	file->in_memory = fstatfs(fd, &status) == 0 && (status.f_type == TMPFS_MAGIC || status.f_type == RAMFS_MAGIC);
	atomic_init(&file->blind_reads, false);
	leave_access_time(fd);
}

int host_open_again(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = TEMP_FAILURE_RETRY(open(path, flags | O_CLOEXEC));
	if (fd < 0)
		return -errno;
	leave_access_time(fd);
	return fd;
}

ssize_t host_read_now(struct host_file *file, int fd, uint8_t *buffer, size_t length, uint64_t host_off)
{
	struct iovec vector = {buffer, length};
	ssize_t n;

	if (file->in_memory) {
		n = pread(fd, buffer, length, (off_t)host_off);
		return n < 0 ? -errno : n;
	}
	if (atomic_load_explicit(&file->blind_reads, memory_order_relaxed))
		return -EAGAIN;
	n = preadv2(fd, &vector, 1, (off_t)host_off, RWF_NOWAIT);
	if (n == (ssize_t)length)
		return n;
	/* Less may be the end of the file or of what is cached. Errors are for whoever tries in earnest. */
	if (n < 0 && errno == EOPNOTSUPP)
		atomic_store_explicit(&file->blind_reads, true, memory_order_relaxed);
	return -EAGAIN;
}

int host_read_all(int fd, uint8_t *buffer, size_t length, uint64_t host_off)
{
	while (length > 0) {
		ssize_t n = pread(fd, buffer, length, (off_t)host_off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		buffer += n;
		length -= (size_t)n;
		host_off += (uint64_t)n;
	}
	return 0;
}

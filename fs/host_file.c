/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/host_file.h"

#include <errno.h>
#include <linux/magic.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS 1000000

/* A write into the page cache takes microseconds. One that takes longer has waited for the disk, perhaps because too
 * much is dirty, and the next one would, too. */
#define SLOW_NS    (1 * NS_PER_MS)
#define RECOVER_NS (50 * NS_PER_MS)

void host_file_init(struct host_file *file, int fd)
{
	struct statfs status;

	file->in_memory = fstatfs(fd, &status) == 0 && (status.f_type == TMPFS_MAGIC || status.f_type == RAMFS_MAGIC);
	atomic_init(&file->blind_reads, false);
	atomic_init(&file->blind_writes, false);
	atomic_init(&file->slow_until, 0);
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

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Writes without being told whether it will wait. */
static ssize_t write_and_time(struct host_file *file, int fd, const uint8_t *buffer, size_t length, uint64_t host_off)
{
	int64_t begin = now_ns(), end;
	ssize_t n;

	if (begin < atomic_load_explicit(&file->slow_until, memory_order_relaxed))
		return -EAGAIN;
	n = pwrite(fd, buffer, length, (off_t)host_off);
	end = now_ns();
	if (end - begin > SLOW_NS)
		atomic_store_explicit(&file->slow_until, end + RECOVER_NS, memory_order_relaxed);
	return n == (ssize_t)length ? n : -EAGAIN;
}

ssize_t host_write_now(struct host_file *file, int fd, const uint8_t *buffer, size_t length, uint64_t host_off)
{
	struct iovec vector = {(void *)(uintptr_t)buffer, length};
	ssize_t n;

	if (file->in_memory) {
		n = pwrite(fd, buffer, length, (off_t)host_off);
		return n == (ssize_t)length ? n : -EAGAIN;
	}
	if (!atomic_load_explicit(&file->blind_writes, memory_order_relaxed)) {
		n = pwritev2(fd, &vector, 1, (off_t)host_off, RWF_NOWAIT);
		if (n == (ssize_t)length)
			return n;
		if (n >= 0 || errno != EOPNOTSUPP)
			return -EAGAIN;
		atomic_store_explicit(&file->blind_writes, true, memory_order_relaxed);
	}
	return write_and_time(file, fd, buffer, length, host_off);
}

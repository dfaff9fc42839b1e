/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * host_file: reading and writing the data file of an image, now or not at all.
 *
 * A ring's thread must not wait for a disk. Whether it would have to, the file system is asked with each call
 * (RWF_NOWAIT). Of one that cannot say so (ext4 of writes, for example) it is assumed.
 */
#ifndef ZCFS_HOST_FILE_H
#define ZCFS_HOST_FILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct host_file {
	bool in_memory;          /* tmpfs: nothing ever waits */
	atomic_bool blind_reads; /* RWF_NOWAIT is not understood */
	atomic_bool blind_writes;
};

void host_file_init(struct host_file *file, int fd);

/* Another open file of the same one, whatever its name is now. The descriptor or -errno. */
int host_open_again(int fd, int flags);

/* Like pread(2) and pwrite(2), but -EAGAIN if that would mean to wait. Short only at the end of the file. */
ssize_t host_read_now(struct host_file *file, int fd, uint8_t *buffer, size_t length, uint64_t host_off);
ssize_t host_write_now(struct host_file *file, int fd, const uint8_t *buffer, size_t length, uint64_t host_off);

/* All of it, however long it takes, in a file of which a map says that it is there: 0; -EIO: the file ends before. */
int host_read_all(int fd, uint8_t *buffer, size_t length, uint64_t host_off);

#endif

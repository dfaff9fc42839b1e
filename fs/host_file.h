/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * host_file: reading the data file of an image, now or not at all.
 *
 * A ring's thread must not wait for a disk. Whether it would have to, the file system is asked with each read
 * (RWF_NOWAIT). Of one that cannot say so it is assumed.
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
};

/* From now on, reading by fd does not change the file's access time, if the file is the daemon's or the daemon
 * privileged: that would mean to wait for the file system's journal now and then, even if what is read is in memory. */
void host_file_init(struct host_file *file, int fd);

/* Another open file of the same one, whatever its name is now, that leaves the access time alone, too. The descriptor
 * or -errno. */
int host_open_again(int fd, int flags);

/* Like pread(2), but -EAGAIN if that would mean to wait. Short only at the end of the file. */
ssize_t host_read_now(struct host_file *file, int fd, uint8_t *buffer, size_t length, uint64_t host_off);

/* All of it, however long it takes, in a file of which a map says that it is there: 0; -EIO: the file ends before. */
int host_read_all(int fd, uint8_t *buffer, size_t length, uint64_t host_off);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * host_file: reading and writing the data file of an image, now or not at all.
 *
 * A ring's thread must not wait for a disk. Whether it would have to, the file system is asked with each call
 * (RWF_NOWAIT). Those that cannot answer that for writes into the page cache (ext4) hardly ever make one wait: for them
 * it is tried and timed, and who was slow once is given some time to recover.
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
	atomic_int_fast64_t slow_until; /* CLOCK_MONOTONIC, ns: until then writes are not tried */
};

void host_file_init(struct host_file *file, int fd);

/* Like pread(2) and pwrite(2), but -EAGAIN if that would mean to wait. Short only at the end of the file. */
ssize_t host_read_now(struct host_file *file, int fd, uint8_t *buffer, size_t length, uint64_t host_off);
ssize_t host_write_now(struct host_file *file, int fd, const uint8_t *buffer, size_t length, uint64_t host_off);

#endif

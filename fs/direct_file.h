/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * direct_file: the data file of an image, past the host's page cache, for those who have opened the image with
 * O_DIRECT.
 *
 * It is a second descriptor of the file, opened for the first of them. The kernel keeps it coherent with what is read
 * and written through the cache by others, as long as no write of the one kind meets one of the other
 * (fs/write_gate.h). It holds the image's shared lock, too: what a daemon that was killed has left on its way to the
 * disk keeps the lock until it is there.
 */
#ifndef ZCFS_DIRECT_FILE_H
#define ZCFS_DIRECT_FILE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mapdb/image_map.h"

struct direct_file {
	pthread_mutex_t lock; /* of opening it */
	bool tried;           /* under lock */
	atomic_int fd;        /* -1: there is none (yet) */
	/* set before fd */
	bool writable;
	uint32_t memory_align, off_align; /* bytes, powers of two */
};

void direct_file_init(struct direct_file *file);
void direct_file_close(struct direct_file *file);

/* Opens it, once; after that does nothing. Where the host cannot do it, or not better, there is none. */
void direct_file_open(struct direct_file *file, int data_fd, bool writable);

/* The descriptor; -1: everything goes through the cache. */
int direct_file_fd(const struct direct_file *file);
int direct_file_write_fd(const struct direct_file *file);

/* Whether there is a descriptor, and by it the host takes whatever a disk with sectors of 512 bytes would. */
bool direct_file_takes_sectors(const struct direct_file *file);

/* If [off, off + length) of an image can be transferred to or from buffer: by that map all pieces are aligned (map
 * NULL: they are where they are in the image). Where there is a descriptor. */
bool direct_file_fits(const struct direct_file *file, const struct image_map *map, const uint8_t *buffer, uint64_t off,
                      size_t length);

#endif

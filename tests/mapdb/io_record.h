/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * io_record: a struct io that does what io_posix does and writes down every operation that changes something or makes
 * something durable, so that what a loss of power may leave of them can be worked out (tests/mapdb/power.h).
 *
 * Files and directories are known by inode number: a descriptor duplicated behind our back is still the same file. Syncs are
 * written down and not done. One thread; the recorded directory must be on one file system, and its bundles not nested.
 */
#ifndef ZCFS_TESTS_IO_RECORD_H
#define ZCFS_TESTS_IO_RECORD_H

#include "disk.h"
#include "mapdb/io.h"

enum io_kind {
	IO_CREATE,
	IO_WRITE,
	IO_TRUNCATE,
	IO_ALLOCATE,
	IO_SYNC_DATA,
	IO_SYNC,
	IO_LINK,
	IO_RENAME,
	IO_UNLINK,
	IO_MKDIR,
};

/* Files and directories are nodes of the disk that io_record_initial() is. */
struct io_operation {
	enum io_kind kind;
	uint32_t node;          /* file or directory that is written, synced, named */
	uint32_t other;         /* IO_RENAME: what new_name was; DISK_NONE: nothing */
	uint32_t directory;     /* of name */
	uint32_t new_directory; /* of new_name */
	uint64_t off, length;   /* IO_TRUNCATE: length is the new size */
	int flags;
	char name[DISK_NAME_SIZE], new_name[DISK_NAME_SIZE];
	uint8_t *data;
};

struct io_record;

/* root_fd: the directory that is recorded, in its initial state, which is remembered. Borrowed. */
struct io_record *io_record_new(int root_fd);
/* Goes on after the first count operations of a record, with what they have done but not made durable: makes that in the empty
 * directory root_fd. */
struct io_record *io_record_fork(const struct io_record *record, size_t count, int root_fd);
void io_record_free(struct io_record *record);
const struct io *io_record_io(const struct io_record *record);
size_t io_record_count(const struct io_record *record);   /* operations so far */
size_t io_record_changes(const struct io_record *record); /* those of them that were no syncs */
const struct io_operation *io_record_get(const struct io_record *record, size_t index);
const struct disk *io_record_initial(const struct io_record *record);

/* The operation before which a prefix of index operations ends, in words. */
const char *io_record_describe(const struct io_record *record, size_t index);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * io_record: a struct io that does what io_posix does and writes down every operation that changes something or makes
 * something durable, so that the state after any prefix of them, as a crash would leave it, can be made again elsewhere.
 *
 * Files and directories are known by inode number: a descriptor duplicated behind our back is still the same file. One
 * thread; the recorded directory must be on one file system, and its bundles not nested.
 */
#ifndef ZCFS_TESTS_IO_RECORD_H
#define ZCFS_TESTS_IO_RECORD_H

#include "mapdb/io.h"

struct io_record;

/* root_fd: the directory that is recorded, in its initial state, which is remembered. Borrowed. */
struct io_record *io_record_new(int root_fd);
void io_record_free(struct io_record *record);
const struct io *io_record_io(const struct io_record *record);
size_t io_record_count(const struct io_record *record); /* operations so far */
size_t io_record_changes(const struct io_record *record); /* those of them that were no syncs */

/* What a crash takes away besides everything after the prefix. */
enum io_loss {
	IO_LOSS_NONE = 0,
	IO_LOSS_DATA = 1,  /* contents of a file since its last sync */
	IO_LOSS_NAMES = 2, /* names since the last operation on names that a sync of its directory made durable (a journal keeps order) */
	IO_LOSS_COUNT = 4,
};

/* Makes in the empty directory to_fd what a crash after the first count operations leaves. */
void io_record_replay(const struct io_record *record, size_t count, enum io_loss loss, int to_fd);

/* The operation before which a prefix of index operations ends, in words. */
const char *io_record_describe(const struct io_record *record, size_t index);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * io: the one interface through which zcfs changes or reads what it keeps on the host.
 *
 * The data file, the map database (through mapdb/vfs.h) and the names in the store are touched only through a
 * struct io, so that a test can stand in for the disk: io_posix below is the real one, tests/mapdb/io_record.h records
 * every operation for crash enumeration, tests/mapdb/io_fault.h makes the k-th one fail.
 *
 * Every function returns 0 (or a count, or a descriptor) or -errno, prints nothing and may be called from any thread.
 */
#ifndef ZCFS_IO_H
#define ZCFS_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

struct io {
	/* Opens path below dir_fd. Neither ".." nor a symbolic link is followed out of or within dir_fd
	 * (openat2 RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS). O_CLOEXEC is implied. Returns the descriptor. */
	int (*open)(const struct io *io, int dir_fd, const char *path, int flags, mode_t mode);
	int (*close)(const struct io *io, int fd);

	/* May return less than length, as the system calls do; see io_pread_full(). */
	ssize_t (*pread)(const struct io *io, int fd, void *buffer, size_t length, uint64_t off);
	ssize_t (*pwrite)(const struct io *io, int fd, const void *buffer, size_t length, uint64_t off);

	int (*fdatasync)(const struct io *io, int fd);
	int (*fsync)(const struct io *io, int fd); /* files and directories */
	int (*ftruncate)(const struct io *io, int fd, uint64_t size);
	int (*fallocate)(const struct io *io, int fd, int mode, uint64_t off, uint64_t length);
	/* Makes a range of one file share the blocks of a range of another one in the same file system (FICLONERANGE): whole blocks, or
	 * up to from's end. -EOPNOTSUPP: the file system, or a file of this kind, cannot. */
	int (*clone)(const struct io *io, int from_fd, uint64_t from_off, uint64_t length, int to_fd, uint64_t to_off);

	int (*link)(const struct io *io, int old_dir_fd, const char *old_name, int new_dir_fd, const char *new_name);
	int (*rename)(const struct io *io, int old_dir_fd, const char *old_name, int new_dir_fd, const char *new_name,
		      unsigned int flags); /* RENAME_NOREPLACE, RENAME_EXCHANGE */
	int (*unlink)(const struct io *io, int dir_fd, const char *name, int flags); /* AT_REMOVEDIR */
	int (*mkdir)(const struct io *io, int dir_fd, const char *name, mode_t mode);
};

/* The system calls themselves. Restarts calls that a signal interrupted (EINTR). */
extern const struct io io_posix;

/* -errno of a system call that has just failed. What a file system says of its own damage is -EIO: -EUCLEAN is a bundle's. */
int io_error(void);

/* For looking without leaving a trace: opens read-only, without changing access times where that is allowed; whatever would change
 * something is -EROFS, syncs included. */
extern const struct io io_look;

/* Calls visit for each entry of a directory, "." and ".." too, until one returns other than 0, which is returned; otherwise 0 or
 * -errno. dir_fd is not read from itself, and may be O_PATH. */
int io_look_entries(int dir_fd, int (*visit)(void *context, const char *entry), void *context);

/* For the beginning of main(): opens /dev/null for those of the descriptors 0, 1 and 2 that are closed. Otherwise files
 * of ours would get these numbers, and messages be written into them. 0 or -errno. */
int io_fill_standard_fds(void);

/* Reads exactly length bytes; bytes past the end of the file read as zeros. 0 or -errno. */
int io_pread_full(const struct io *io, int fd, void *buffer, size_t length, uint64_t off);

/* Writes exactly length bytes. 0 or -errno; after an error part of the range may be written. */
int io_pwrite_full(const struct io *io, int fd, const void *buffer, size_t length, uint64_t off);

#endif

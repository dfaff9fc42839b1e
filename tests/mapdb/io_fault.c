/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io_fault.h"

#include "check.h"

static struct io_fault *fault_of(const struct io *io)
{
	return (struct io_fault *)io;
}

/* Counts one call; true if it fails. */
static bool fails(struct io_fault *fault)
{
	if (fault->countdown > 0) {
		fault->countdown--;
		return false;
	}
	bool first = !fault->happened;

	fault->happened = true;
	return fault->mode == FAULT_DEAD || (first && fault->mode == FAULT_ONCE);
}

#define PASS(io, call)                                                                                                 \
	do {                                                                                                           \
		struct io_fault *fault = fault_of(io);                                                                 \
		const struct io *base = fault->base;                                                                   \
		return fails(fault) ? -fault->error : base->call;                                                      \
	} while (0)

static int fault_open(const struct io *io, int dir_fd, const char *path, int flags, mode_t mode)
{
	PASS(io, open(base, dir_fd, path, flags, mode));
}

static int fault_close(const struct io *io, int fd)
{
	return fault_of(io)->base->close(fault_of(io)->base, fd);
}

static ssize_t fault_pread(const struct io *io, int fd, void *buffer, size_t length, uint64_t off)
{
	PASS(io, pread(base, fd, buffer, length, off));
}

static ssize_t fault_pwrite(const struct io *io, int fd, const void *buffer, size_t length, uint64_t off)
{
	struct io_fault *fault = fault_of(io);

	if (fails(fault))
		return -fault->error;
	if (fault->mode == FAULT_SHORT && fault->happened) {
		fault->mode = FAULT_ONCE; /* the rest of it fails; that may be a write of one byte */
		fault->happened = length < 2;
		if (fault->happened)
			return -fault->error;
		length /= 2;
	}
	return fault->base->pwrite(fault->base, fd, buffer, length, off);
}

static int fault_fdatasync(const struct io *io, int fd)
{
	PASS(io, fdatasync(base, fd));
}

static int fault_fsync(const struct io *io, int fd)
{
	PASS(io, fsync(base, fd));
}

static int fault_ftruncate(const struct io *io, int fd, uint64_t size)
{
	PASS(io, ftruncate(base, fd, size));
}

static int fault_fallocate(const struct io *io, int fd, int mode, uint64_t off, uint64_t length)
{
	PASS(io, fallocate(base, fd, mode, off, length));
}

static int fault_clone(const struct io *io, int from_fd, uint64_t from_off, uint64_t length, int to_fd, uint64_t to_off)
{
	PASS(io, clone(base, from_fd, from_off, length, to_fd, to_off));
}

static int fault_link(const struct io *io, int old_dir_fd, const char *old_name, int new_dir_fd, const char *new_name)
{
	PASS(io, link(base, old_dir_fd, old_name, new_dir_fd, new_name));
}

static int fault_rename(const struct io *io, int old_dir_fd, const char *old_name, int new_dir_fd, const char *new_name,
                        unsigned int flags)
{
	PASS(io, rename(base, old_dir_fd, old_name, new_dir_fd, new_name, flags));
}

static int fault_unlink(const struct io *io, int dir_fd, const char *name, int flags)
{
	PASS(io, unlink(base, dir_fd, name, flags));
}

static int fault_mkdir(const struct io *io, int dir_fd, const char *name, mode_t mode)
{
	PASS(io, mkdir(base, dir_fd, name, mode));
}

void io_fault_init(struct io_fault *fault, const struct io *base, size_t k, enum fault_mode mode, int error)
{
	*fault = (struct io_fault){
	        .base = base,
	        .countdown = k,
	        .mode = mode,
	        .error = error,
	        .io =
	                {
	                        .open = fault_open,
	                        .close = fault_close,
	                        .pread = fault_pread,
	                        .pwrite = fault_pwrite,
	                        .fdatasync = fault_fdatasync,
	                        .fsync = fault_fsync,
	                        .ftruncate = fault_ftruncate,
	                        .fallocate = fault_fallocate,
	                        .clone = fault_clone,
	                        .link = fault_link,
	                        .rename = fault_rename,
	                        .unlink = fault_unlink,
	                        .mkdir = fault_mkdir,
	                },
	};
}

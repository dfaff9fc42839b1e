/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io_record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "power.h"

struct io_record {
	struct io io; /* first: a struct io is a struct io_record */
	struct disk initial;
	uint32_t node_count;
	struct disk_inodes inodes; /* of the nodes, while they live */
	size_t count, capacity;
	struct io_operation *operations;
};

static struct io_record *record_of(const struct io *io)
{
	return (struct io_record *)io;
}

/* The last one that had the number: it may be used again. */
static uint32_t node_of_inode(const struct io_record *record, ino_t inode)
{
	for (uint32_t i = record->node_count; i > 0; i--) {
		if (record->inodes.of[i - 1] == inode)
			return i - 1;
	}
	return DISK_NONE;
}

static uint32_t node_of_fd(const struct io_record *record, int fd)
{
	struct stat status;

	CHECK_IS(fstat(fd, &status), 0);
	return node_of_inode(record, status.st_ino);
}

static uint32_t node_of_name(const struct io_record *record, int dir_fd, const char *name)
{
	struct stat status;

	if (fstatat(dir_fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return DISK_NONE;
	return node_of_inode(record, status.st_ino);
}

static struct io_operation *add(const struct io *io, enum io_kind kind, uint32_t node)
{
	struct io_record *record = record_of(io);

	CHECK(node != DISK_NONE);
	if (record->count == record->capacity) {
		record->capacity = record->capacity ? record->capacity * 2 : 256;
		record->operations = reallocarray(record->operations, record->capacity, sizeof *record->operations);
		CHECK(record->operations);
	}
	struct io_operation *operation = &record->operations[record->count++];
	*operation = (struct io_operation){.kind = kind, .node = node, .other = DISK_NONE};
	return operation;
}

static void set_name(const struct io *io, int dir_fd, const char *name, uint32_t *directory, char *to)
{
	struct io_record *record = record_of(io);

	*directory = node_of_fd(record, dir_fd);
	CHECK(*directory != DISK_NONE);
	disk_name_with_nodes(&record->inodes, name, to);
}

/* What was just made under a name. */
static void add_made(const struct io *io, enum io_kind kind, int dir_fd, const char *name)
{
	struct io_record *record = record_of(io);
	struct stat status;
	uint32_t node = record->node_count++;

	CHECK(node < DISK_NODES);
	CHECK_IS(fstatat(dir_fd, name, &status, AT_SYMLINK_NOFOLLOW), 0);
	record->inodes.of[node] = status.st_ino;
	struct io_operation *operation = add(io, kind, node);
	set_name(io, dir_fd, name, &operation->directory, operation->name);
}

static int record_open(const struct io *io, int dir_fd, const char *path, int flags, mode_t mode)
{
	struct stat status;
	bool existed = fstatat(dir_fd, path, &status, AT_SYMLINK_NOFOLLOW) == 0;
	int fd = io_posix.open(&io_posix, dir_fd, path, flags, mode);

	if (fd >= 0 && !existed)
		add_made(io, IO_CREATE, dir_fd, path);
	CHECK(fd < 0 || !(flags & O_TRUNC));
	return fd;
}

static int record_close(const struct io *io, int fd)
{
	return io_posix.close(&io_posix, fd);
}

static ssize_t record_pread(const struct io *io, int fd, void *buffer, size_t length, uint64_t off)
{
	return io_posix.pread(&io_posix, fd, buffer, length, off);
}

static ssize_t record_pwrite(const struct io *io, int fd, const void *buffer, size_t length, uint64_t off)
{
	ssize_t n = io_posix.pwrite(&io_posix, fd, buffer, length, off);

	if (n > 0) {
		struct io_operation *operation = add(io, IO_WRITE, node_of_fd(record_of(io), fd));
		operation->off = off;
		operation->length = (uint64_t)n;
		operation->data = malloc((size_t)n);
		CHECK(operation->data);
		memcpy(operation->data, buffer, (size_t)n);
	}
	return n;
}

/* What would be durable is decided when power fails. */
static int record_fdatasync(const struct io *io, int fd)
{
	add(io, IO_SYNC_DATA, node_of_fd(record_of(io), fd));
	return 0;
}

static int record_fsync(const struct io *io, int fd)
{
	add(io, IO_SYNC, node_of_fd(record_of(io), fd));
	return 0;
}

static int record_ftruncate(const struct io *io, int fd, uint64_t size)
{
	int rc = io_posix.ftruncate(&io_posix, fd, size);

	if (rc == 0)
		add(io, IO_TRUNCATE, node_of_fd(record_of(io), fd))->length = size;
	return rc;
}

static int record_fallocate(const struct io *io, int fd, int mode, uint64_t off, uint64_t length)
{
	int rc = io_posix.fallocate(&io_posix, fd, mode, off, length);
	struct stat status;

	if (rc == 0 && fstat(fd, &status) == 0 && status.st_nlink > 0) { /* what has no name leaves nothing behind */
		struct io_operation *operation = add(io, IO_ALLOCATE, node_of_fd(record_of(io), fd));
		operation->flags = mode;
		operation->off = off;
		operation->length = length;
	}
	return rc;
}

/* Where the tests run, no file system may have it: what a clone does is what a write of the same bytes does. */
static int record_clone(const struct io *io, int from_fd, uint64_t from_off, uint64_t length, int to_fd,
                        uint64_t to_off)
{
	uint8_t *bytes = malloc((size_t)length);

	CHECK(bytes);
	CHECK_IS(io_pread_full(&io_posix, from_fd, bytes, (size_t)length, from_off), 0);
	int rc = io_pwrite_full(io, to_fd, bytes, (size_t)length, to_off);
	free(bytes);
	return rc;
}

static int record_link(const struct io *io, int old_dir_fd, const char *old_name, int new_dir_fd, const char *new_name)
{
	int rc = io_posix.link(&io_posix, old_dir_fd, old_name, new_dir_fd, new_name);

	if (rc == 0) {
		struct io_operation *operation = add(io, IO_LINK, node_of_name(record_of(io), old_dir_fd, old_name));
		set_name(io, new_dir_fd, new_name, &operation->directory, operation->name);
	}
	return rc;
}

static int record_rename(const struct io *io, int old_dir_fd, const char *old_name, int new_dir_fd,
                         const char *new_name, unsigned int flags)
{
	uint32_t other = node_of_name(record_of(io), new_dir_fd, new_name);
	int rc = io_posix.rename(&io_posix, old_dir_fd, old_name, new_dir_fd, new_name, flags);

	if (rc == 0) {
		struct io_operation *operation = add(io, IO_RENAME, node_of_name(record_of(io), new_dir_fd, new_name));
		operation->other = other;
		operation->flags = (int)flags;
		set_name(io, old_dir_fd, old_name, &operation->directory, operation->name);
		set_name(io, new_dir_fd, new_name, &operation->new_directory, operation->new_name);
	}
	return rc;
}

static int record_unlink(const struct io *io, int dir_fd, const char *name, int flags)
{
	uint32_t node = node_of_name(record_of(io), dir_fd, name);
	int rc = io_posix.unlink(&io_posix, dir_fd, name, flags);

	if (rc == 0) {
		struct io_operation *operation = add(io, IO_UNLINK, node);
		set_name(io, dir_fd, name, &operation->directory, operation->name);
	}
	return rc;
}

static int record_mkdir(const struct io *io, int dir_fd, const char *name, mode_t mode)
{
	int rc = io_posix.mkdir(&io_posix, dir_fd, name, mode);

	if (rc == 0)
		add_made(io, IO_MKDIR, dir_fd, name);
	return rc;
}

static struct io_record *record_make(void)
{
	struct io_record *record = calloc(1, sizeof *record);

	CHECK(record);
	record->io = (struct io){
	        .open = record_open,
	        .close = record_close,
	        .pread = record_pread,
	        .pwrite = record_pwrite,
	        .fdatasync = record_fdatasync,
	        .fsync = record_fsync,
	        .ftruncate = record_ftruncate,
	        .fallocate = record_fallocate,
	        .clone = record_clone,
	        .link = record_link,
	        .rename = record_rename,
	        .unlink = record_unlink,
	        .mkdir = record_mkdir,
	};
	return record;
}

struct io_record *io_record_new(int root_fd)
{
	struct io_record *record = record_make();

	disk_read(root_fd, &record->initial, &record->inodes);
	record->node_count = (uint32_t)record->initial.node_count;
	return record;
}

struct io_record *io_record_fork(const struct io_record *record, size_t count, int root_fd)
{
	struct io_record *fork = record_make();
	struct disk disk;

	disk_copy(&record->initial, &fork->initial);
	fork->node_count = record->node_count;
	fork->count = fork->capacity = count;
	fork->operations = calloc(count + 1, sizeof *fork->operations);
	CHECK(fork->operations);
	for (size_t i = 0; i < count; i++) {
		struct io_operation *operation = &fork->operations[i];

		*operation = record->operations[i];
		if (!operation->data)
			continue;
		operation->data = malloc((size_t)operation->length);
		CHECK(operation->data);
		memcpy(operation->data, record->operations[i].data, (size_t)operation->length);
	}
	power_disk(record, count, POWER_KEPT, &disk);
	disk_make(&disk, root_fd, &fork->inodes);
	disk_release(&disk);
	return fork;
}

void io_record_free(struct io_record *record)
{
	for (size_t i = 0; i < record->count; i++)
		free(record->operations[i].data);
	free(record->operations);
	disk_release(&record->initial);
	free(record);
}

const struct io *io_record_io(const struct io_record *record)
{
	return &record->io;
}

size_t io_record_count(const struct io_record *record)
{
	return record->count;
}

const struct io_operation *io_record_get(const struct io_record *record, size_t index)
{
	return &record->operations[index];
}

const struct disk *io_record_initial(const struct io_record *record)
{
	return &record->initial;
}

size_t io_record_changes(const struct io_record *record)
{
	size_t changes = 0;

	for (size_t i = 0; i < record->count; i++)
		changes += record->operations[i].kind != IO_SYNC && record->operations[i].kind != IO_SYNC_DATA;
	return changes;
}

/* What a file or directory was called last. */
static const char *name_of(const struct io_record *record, size_t count, uint32_t node)
{
	if (node == DISK_ROOT)
		return "the store";
	for (size_t i = count; i > 0; i--) {
		const struct io_operation *operation = &record->operations[i - 1];

		if (operation->kind == IO_RENAME && operation->node == node)
			return operation->new_name;
		if (operation->name[0] && (operation->node == node || operation->other == node))
			return operation->name;
	}
	for (size_t i = 0; i < record->initial.entry_count; i++) {
		if (record->initial.entries[i].node == node)
			return record->initial.entries[i].name;
	}
	return "?";
}

const char *io_record_describe(const struct io_record *record, size_t index)
{
	static const char *const names[] = {"create", "write", "truncate", "allocate", "fdatasync",
	                                    "fsync",  "link",  "rename",   "unlink",   "mkdir"};
	static char text[4 * DISK_NAME_SIZE];

	if (index >= record->count)
		return "the end";
	const struct io_operation *operation = &record->operations[index];
	const char *name = name_of(record, index, operation->node), *kind = names[operation->kind];
	if (operation->kind == IO_WRITE || operation->kind == IO_TRUNCATE || operation->kind == IO_ALLOCATE)
		snprintf(text, sizeof text, "%s %s off %llu length %llu", kind, name,
		         (unsigned long long)operation->off, (unsigned long long)operation->length);
	else if (operation->kind == IO_RENAME)
		snprintf(text, sizeof text, "%s %s to %s", kind, operation->name, operation->new_name);
	else
		snprintf(text, sizeof text, "%s %s", kind, operation->name[0] ? operation->name : name);
	return text;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io_record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

enum kind { CREATE, WRITE, TRUNCATE, ALLOCATE, SYNC_DATA, SYNC, LINK, RENAME, UNLINK, MKDIR };

struct operation {
	enum kind kind;
	ino_t inode;     /* file written, or directory of name */
	ino_t new_inode; /* directory of new_name */
	ino_t made;      /* CREATE, MKDIR */
	uint64_t off, length;
	int flags;
	char name[64], new_name[64];
	uint8_t *data;
};

struct io_record {
	struct io io;   /* first: a struct io is a struct io_record */
	int initial_fd; /* a copy of the directory as it was */
	size_t count, capacity;
	struct operation *operations;
	/* inode numbers of the initial directory's contents, in the order of walk() */
	size_t initial_count;
	ino_t initial[64];
};

static struct io_record *record_of(const struct io *io)
{
	return (struct io_record *)io;
}

static ino_t inode_of(int fd)
{
	struct stat status;

	CHECK_IS(fstat(fd, &status), 0);
	return status.st_ino;
}

static struct operation *add(const struct io *io, enum kind kind, int fd)
{
	struct io_record *record = record_of(io);

	if (record->count == record->capacity) {
		record->capacity = record->capacity ? record->capacity * 2 : 256;
		record->operations = reallocarray(record->operations, record->capacity, sizeof *record->operations);
		CHECK(record->operations);
	}
	struct operation *operation = &record->operations[record->count++];
	*operation = (struct operation){.kind = kind, .inode = inode_of(fd)};
	return operation;
}

static void set_name(char *to, const char *name)
{
	CHECK(strlen(name) < sizeof((struct operation *)0)->name);
	strcpy(to, name);
}

static int record_open(const struct io *io, int dir_fd, const char *path, int flags, mode_t mode)
{
	struct stat status;
	bool existed = fstatat(dir_fd, path, &status, AT_SYMLINK_NOFOLLOW) == 0;
	int fd = io_posix.open(&io_posix, dir_fd, path, flags, mode);

	if (fd >= 0 && !existed) {
		struct operation *operation = add(io, CREATE, dir_fd);
		operation->made = inode_of(fd);
		set_name(operation->name, path);
	}
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
		struct operation *operation = add(io, WRITE, fd);
		operation->off = off;
		operation->length = (uint64_t)n;
		operation->data = malloc((size_t)n);
		CHECK(operation->data);
		memcpy(operation->data, buffer, (size_t)n);
	}
	return n;
}

static int record_fdatasync(const struct io *io, int fd)
{
	add(io, SYNC_DATA, fd);
	return 0; /* what would be durable is decided at replay */
}

static int record_fsync(const struct io *io, int fd)
{
	add(io, SYNC, fd);
	return 0;
}

static int record_ftruncate(const struct io *io, int fd, uint64_t size)
{
	int rc = io_posix.ftruncate(&io_posix, fd, size);

	if (rc == 0)
		add(io, TRUNCATE, fd)->length = size;
	return rc;
}

static int record_fallocate(const struct io *io, int fd, int mode, uint64_t off, uint64_t length)
{
	int rc = io_posix.fallocate(&io_posix, fd, mode, off, length);
	struct stat status;

	if (rc == 0 && fstat(fd, &status) == 0 && status.st_nlink > 0) { /* what has no name leaves nothing behind */
		struct operation *operation = add(io, ALLOCATE, fd);
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
		struct operation *operation = add(io, LINK, old_dir_fd);
		operation->new_inode = inode_of(new_dir_fd);
		set_name(operation->name, old_name);
		set_name(operation->new_name, new_name);
	}
	return rc;
}

static int record_rename(const struct io *io, int old_dir_fd, const char *old_name, int new_dir_fd,
                         const char *new_name, unsigned int flags)
{
	int rc = io_posix.rename(&io_posix, old_dir_fd, old_name, new_dir_fd, new_name, flags);

	if (rc == 0) {
		struct operation *operation = add(io, RENAME, old_dir_fd);
		operation->new_inode = inode_of(new_dir_fd);
		operation->flags = (int)flags;
		set_name(operation->name, old_name);
		set_name(operation->new_name, new_name);
	}
	return rc;
}

static int record_unlink(const struct io *io, int dir_fd, const char *name, int flags)
{
	int rc = io_posix.unlink(&io_posix, dir_fd, name, flags);

	if (rc == 0) {
		struct operation *operation = add(io, UNLINK, dir_fd);
		operation->flags = flags;
		set_name(operation->name, name);
	}
	return rc;
}

static int record_mkdir(const struct io *io, int dir_fd, const char *name, mode_t mode)
{
	struct stat status;
	int rc = io_posix.mkdir(&io_posix, dir_fd, name, mode);

	if (rc == 0) {
		CHECK_IS(fstatat(dir_fd, name, &status, AT_SYMLINK_NOFOLLOW), 0);
		struct operation *operation = add(io, MKDIR, dir_fd);
		operation->made = status.st_ino;
		set_name(operation->name, name);
	}
	return rc;
}

/* The replayed counterpart of every recorded inode. */
struct twins {
	size_t count;
	struct twin {
		ino_t inode;
		int fd; /* -1: lost with its name */
	} list[512];
};

static void set_twin(struct twins *twins, ino_t inode, int fd)
{
	for (size_t i = 0; i < twins->count; i++) {
		if (twins->list[i].inode == inode) { /* the number was used again */
			if (twins->list[i].fd >= 0)
				close(twins->list[i].fd);
			twins->list[i].fd = fd;
			return;
		}
	}
	CHECK(twins->count < sizeof twins->list / sizeof twins->list[0]);
	twins->list[twins->count++] = (struct twin){inode, fd};
}

static int twin_of(const struct twins *twins, ino_t inode)
{
	for (size_t i = 0; i < twins->count; i++) {
		if (twins->list[i].inode == inode)
			return twins->list[i].fd;
	}
	check_failed(__FILE__, __LINE__, "recorded file is known");
}

static void walk(int dir_fd, void (*visit)(void *context, int fd), void *context);

static void walk_entry(int dir_fd, const char *name, void (*visit)(void *context, int fd), void *context)
{
	struct stat status;

	CHECK_IS(fstatat(dir_fd, name, &status, AT_SYMLINK_NOFOLLOW), 0);
	bool directory = S_ISDIR(status.st_mode);
	int fd = openat(dir_fd, name, directory ? O_RDONLY | O_DIRECTORY : O_RDWR);
	CHECK(fd >= 0);
	if (directory)
		walk(fd, visit, context);
	else
		visit(context, fd);
	close(fd);
}

static int is_entry(const struct dirent *entry)
{
	return strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* Visits the directory, then its entries sorted by name: the same order for a directory and for its copy. */
static void walk(int dir_fd, void (*visit)(void *context, int fd), void *context)
{
	struct dirent **entries;
	int count = scandirat(dir_fd, ".", &entries, is_entry, by_name);

	CHECK(count >= 0);
	visit(context, dir_fd);
	for (int i = 0; i < count; i++) {
		walk_entry(dir_fd, entries[i]->d_name, visit, context);
		free(entries[i]);
	}
	free(entries);
}

static void visit_initial(void *context, int fd)
{
	struct io_record *record = context;

	CHECK(record->initial_count < sizeof record->initial / sizeof record->initial[0]);
	record->initial[record->initial_count++] = inode_of(fd);
}

struct twin_walk {
	const struct io_record *record;
	struct twins *twins;
	size_t next;
};

static void visit_twin(void *context, int fd)
{
	struct twin_walk *state = context;

	set_twin(state->twins, state->record->initial[state->next++], dup(fd));
}

struct io_record *io_record_new(int root_fd)
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
	record->initial_fd = scratch_directory();
	copy_directory(root_fd, record->initial_fd);
	walk(root_fd, visit_initial, record);
	return record;
}

void io_record_free(struct io_record *record)
{
	for (size_t i = 0; i < record->count; i++)
		free(record->operations[i].data);
	free(record->operations);
	close(record->initial_fd);
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

size_t io_record_changes(const struct io_record *record)
{
	size_t changes = 0;

	for (size_t i = 0; i < record->count; i++)
		changes += record->operations[i].kind != SYNC && record->operations[i].kind != SYNC_DATA;
	return changes;
}

static bool is_name_operation(enum kind kind)
{
	return kind == CREATE || kind == LINK || kind == RENAME || kind == UNLINK || kind == MKDIR;
}

static bool is_data_operation(enum kind kind)
{
	return kind == WRITE || kind == TRUNCATE || kind == ALLOCATE;
}

/* True if operation index is followed, within count, by a sync of what it changed. */
static bool synced(const struct io_record *record, size_t index, size_t count)
{
	const struct operation *operation = &record->operations[index];

	for (size_t i = index + 1; i < count; i++) {
		const struct operation *later = &record->operations[i];

		if (is_data_operation(operation->kind) ? (later->kind == SYNC || later->kind == SYNC_DATA)
		                                       : later->kind == SYNC)
			if (later->inode == operation->inode ||
			    (operation->new_inode && later->inode == operation->new_inode))
				return true;
	}
	return false;
}

/* The number of operations of the prefix whose names survive the loss. */
static size_t durable_names(const struct io_record *record, size_t count)
{
	for (size_t i = count; i > 0; i--) {
		if (is_name_operation(record->operations[i - 1].kind) && synced(record, i - 1, count))
			return i;
	}
	return 0;
}

static void replay_data(const struct operation *operation, int fd)
{
	if (fd < 0)
		return;
	if (operation->kind == WRITE)
		CHECK_IS(pwrite(fd, operation->data, operation->length, (off_t)operation->off), operation->length);
	else if (operation->kind == TRUNCATE)
		CHECK_IS(ftruncate(fd, (off_t)operation->length), 0);
	else
		CHECK_IS(fallocate(fd, operation->flags, (off_t)operation->off, (off_t)operation->length), 0);
}

/* The hidden names of replacements contain inode numbers: *name with those of the twins. */
static const char *twin_name(const struct twins *twins, const char *name, char *buffer, size_t size)
{
	const char *mark = strstr(name, "replace-");
	unsigned long numbers[2];

	if (!mark)
		return name;
	CHECK_IS(sscanf(mark, "replace-%lx-%lx", &numbers[0], &numbers[1]), 2);
	for (int i = 0; i < 2; i++) {
		int fd = twin_of(twins, numbers[i]);
		numbers[i] = fd < 0 ? 0 : inode_of(fd);
	}
	snprintf(buffer, size, "%.*sreplace-%lx-%lx", (int)(mark - name), name, numbers[0], numbers[1]);
	return buffer;
}

static void replay_made(const struct operation *operation, struct twins *twins, int dir_fd, bool lost)
{
	int fd = -1;

	if (!lost && operation->kind == CREATE)
		CHECK((fd = openat(dir_fd, operation->name, O_RDWR | O_CREAT | O_EXCL, 0600)) >= 0);
	if (!lost && operation->kind == MKDIR) {
		CHECK_IS(mkdirat(dir_fd, operation->name, 0700), 0);
		CHECK((fd = openat(dir_fd, operation->name, O_RDONLY | O_DIRECTORY)) >= 0);
	}
	set_twin(twins, operation->made, fd);
}

static void replay_name(const struct operation *operation, struct twins *twins, bool lost)
{
	char buffer[128], new_buffer[128];

	if (operation->kind == CREATE || operation->kind == MKDIR) {
		replay_made(operation, twins, lost ? -1 : twin_of(twins, operation->inode), lost);
		return;
	}
	if (lost)
		return;
	int dir_fd = twin_of(twins, operation->inode);
	int new_dir_fd = operation->new_inode ? twin_of(twins, operation->new_inode) : -1;
	const char *name = twin_name(twins, operation->name, buffer, sizeof buffer);
	const char *new_name = twin_name(twins, operation->new_name, new_buffer, sizeof new_buffer);

	if (operation->kind == LINK)
		CHECK_IS(linkat(dir_fd, name, new_dir_fd, new_name, 0), 0);
	else if (operation->kind == RENAME)
		CHECK_IS(renameat2(dir_fd, name, new_dir_fd, new_name, (unsigned int)operation->flags), 0);
	else
		CHECK_IS(unlinkat(dir_fd, name, operation->flags), 0);
}

/* The hidden names that were there from the start. */
static void fit_initial_names(const struct twins *twins, int to_fd)
{
	struct dirent **entries;
	int count = scandirat(to_fd, ".", &entries, is_entry, by_name);
	char buffer[128];

	CHECK(count >= 0);
	for (int i = 0; i < count; i++) {
		const char *name = twin_name(twins, entries[i]->d_name, buffer, sizeof buffer);

		if (name == buffer)
			CHECK_IS(renameat(to_fd, entries[i]->d_name, to_fd, name), 0);
		free(entries[i]);
	}
	free(entries);
}

void io_record_replay(const struct io_record *record, size_t count, enum io_loss loss, int to_fd)
{
	struct twins twins = {0};
	struct twin_walk state = {.record = record, .twins = &twins};
	size_t names = loss & IO_LOSS_NAMES ? durable_names(record, count) : count;

	copy_directory(record->initial_fd, to_fd);
	walk(to_fd, visit_twin, &state);
	fit_initial_names(&twins, to_fd);
	for (size_t i = 0; i < count; i++) {
		const struct operation *operation = &record->operations[i];

		if (is_name_operation(operation->kind))
			replay_name(operation, &twins, i >= names);
		else if (is_data_operation(operation->kind) && (!(loss & IO_LOSS_DATA) || synced(record, i, count)))
			replay_data(operation, twin_of(&twins, operation->inode));
	}
	for (size_t i = 0; i < twins.count; i++) {
		if (twins.list[i].fd >= 0)
			close(twins.list[i].fd);
	}
}

const char *io_record_describe(const struct io_record *record, size_t index)
{
	static const char *const names[] = {"create", "write", "truncate", "allocate", "fdatasync",
	                                    "fsync",  "link",  "rename",   "unlink",   "mkdir"};
	static char text[200];

	if (index >= record->count)
		return "the end";
	const struct operation *operation = &record->operations[index];
	snprintf(text, sizeof text, "%s %s %s off %llu length %llu", names[operation->kind], operation->name,
	         operation->new_name, (unsigned long long)operation->off, (unsigned long long)operation->length);
	return text;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promises of a commit about its journal: it takes no more room than was kept for it, and whoever owns the image can go
 * on from wherever root was stopped; who comes meanwhile waits.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "mapdb/image.h"

#define JOURNAL     "map.db-journal"
#define SIZE        ((8u << 20) + 512) /* no database is of that size */
#define REDO        (6u << 20)         /* bytes */
#define COMMIT_ROOM (4u << 20)         /* what mapdb/image_room.c keeps */
#define OWNER       12345u

static int dir_fd;
static int journal_fd = -1;
static size_t journal_bytes;
static bool applied;       /* redo, to the data */
static unsigned int small; /* journals after that */
static bool stopped, given_away;

static int note_open(const struct io *io, int from_fd, const char *path, int flags, mode_t mode)
{
	int fd = io_posix.open(&io_posix, from_fd, path, flags, mode);

	if (!strcmp(path, JOURNAL))
		journal_fd = fd;
	return fd;
}

static ssize_t note_pwrite(const struct io *io, int fd, const void *buffer, size_t length, uint64_t off)
{
	struct stat status;

	if (fd == journal_fd)
		journal_bytes += length;
	else
		applied |= fstat(fd, &status) == 0 && status.st_size == SIZE;
	return io_posix.pwrite(&io_posix, fd, buffer, length, off);
}

static int note_unlink(const struct io *io, int from_fd, const char *name, int flags)
{
	struct stat journal, database;

	if (!strcmp(name, JOURNAL)) {
		CHECK_IS(fstatat(from_fd, JOURNAL, &journal, 0), 0);
		CHECK_IS(fstatat(from_fd, "map.db", &database, 0), 0);
		CHECK_IS(journal.st_uid, database.st_uid);
		given_away |= database.st_uid == OWNER;
		if (applied)
			CHECK(journal_bytes < COMMIT_ROOM / 4);
		small += applied;
		applied = false;
		journal_bytes = 0;
		journal_fd = -1;
	}
	return io_posix.unlink(&io_posix, from_fd, name, flags);
}

/* What is on the disk at the first call is what a crash would leave. */
static ssize_t stop_at_data(const struct io *io, int fd, const void *buffer, size_t length, uint64_t off)
{
	struct stat status;

	stopped |= fstat(fd, &status) == 0 && status.st_size == SIZE;
	return stopped ? -EIO : io_posix.pwrite(&io_posix, fd, buffer, length, off);
}

static void put_redo(struct image *image)
{
	static struct redo_blob redo, undo;
	static uint8_t bytes[REDO_BLOB_SIZE_MAX / 2];

	memset(bytes, 'n', sizeof bytes);
	for (uint64_t off = 0; off < REDO; off += sizeof bytes) {
		redo.size = undo.size = 0;
		redo_blob_put(&redo, off, bytes, 0, sizeof bytes);
		redo_blob_put(&undo, off, bytes, 0, sizeof bytes);
		CHECK_IS(map_db_put_redo(image->db, &redo, &undo), 0);
	}
}

static int change(const struct io *io)
{
	struct image *image;

	CHECK_IS(image_open(io, dir_fd, "a.img", IMAGE_EXCLUSIVE, 0, 2000, &image), 0);
	CHECK_IS(image_begin(image), 0);
	put_redo(image);
	int rc = image_commit(image);
	image_close(image);
	return rc;
}

static void make_image(void)
{
	int fd = openat(dir_fd, "a.img", O_WRONLY | O_CREAT | O_EXCL, 0600);

	CHECK_IS(ftruncate(fd, SIZE), 0);
	if (geteuid() == 0)
		CHECK_IS(fchown(fd, OWNER, OWNER), 0);
	close(fd);
}

/* After the commit nothing may be left that makes forgetting redo fail. */
static void check_room(void)
{
	struct io io = io_posix;

	io.open = note_open;
	io.pwrite = note_pwrite;
	io.unlink = note_unlink;
	CHECK_IS(change(&io), 0);
	CHECK_IS(change(&io), 0);
	CHECK_IS(small, 2);
	CHECK(given_away || geteuid() != 0);
}

/* Redo is pending, and somebody looks at the image: that passes. */
static void check_looked_at(void)
{
	struct io io = io_posix;
	struct image *image;

	io.pwrite = stop_at_data;
	CHECK_IS(change(&io), -EINPROGRESS);
	int look_fd = openat(dir_fd, "a.img/data", O_RDONLY);
	CHECK_IS(flock(look_fd, LOCK_SH), 0);
	CHECK_IS(image_open(&io_posix, dir_fd, "a.img", IMAGE_SHARED, 0, 0, &image), -EBUSY);
	close(look_fd);
	CHECK_IS(image_open(&io_posix, dir_fd, "a.img", IMAGE_SHARED, 0, 0, &image), 0);
	CHECK(!image->read_only && !image->overlay && !image->state.redo_pending);
	image_close(image);
}

/* What was deleted beside another image is no business of who only reads. */
static void check_reading_cleans_nothing(void)
{
	struct image *image;

	CHECK_IS(linkat(dir_fd, "a.img/data", dir_fd, "other", 0), 0);
	CHECK_IS(mkdirat(dir_fd, ".o.img.zcfs-removed-AbCdEf", 0700), 0);
	for (enum image_access access = IMAGE_UNLOCKED; access <= IMAGE_EXCLUSIVE; access++) {
		CHECK_IS(image_open(&io_posix, dir_fd, "a.img", access, IMAGE_READ_ONLY, 0, &image), 0);
		image_close(image);
	}
	CHECK_IS(unlinkat(dir_fd, ".o.img.zcfs-removed-AbCdEf", AT_REMOVEDIR), 0);
	CHECK_IS(unlinkat(dir_fd, "other", 0), 0);
}

int main(void)
{
	dir_fd = scratch_directory();
	make_image();
	check_room();
	check_looked_at();
	check_reading_cleans_nothing();
	return 0;
}

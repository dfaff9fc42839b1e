/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promises of mapdb/image.h that need no crash: who gets an image when, what is refused, and that what a name is gets
 * decided under the lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "mapdb/image.h"
#include "scenario.h"

static int dir_fd;

static int open_image(const char *name, enum image_access access, int flags, struct image **image)
{
	return image_open(&io_fast, dir_fd, name, access, flags, 50, image);
}

static void check_locks(void)
{
	struct image *one, *two;

	CHECK_IS(open_image("a.img", IMAGE_SHARED, 0, &one), 0);
	CHECK(one->bundle_fd < 0 && image_map_is_identity(one->map) && !one->waited && !one->db);
	CHECK_IS(open_image("a.img", IMAGE_SHARED, 0, &two), 0);
	image_close(two);
	CHECK_IS(open_image("a.img", IMAGE_EXCLUSIVE, 0, &two), -EBUSY);
	CHECK_IS(open_image("a.img", IMAGE_UNLOCKED, 0, &two), 0);
	CHECK(two->read_only);
	image_close(two);
	image_close(one);

	CHECK_IS(open_image("a.img", IMAGE_EXCLUSIVE, 0, &one), 0);
	CHECK(image_still_ours(one));
	if (one->leased) /* a second one neither gets in nor spoils the run of the first */
		CHECK_IS(open_image("a.img", IMAGE_SHARED, 0, &two), -EBUSY);
	CHECK(image_still_ours(one));
	one->lease_safe_until_ms = 0;
	CHECK_IS(image_still_ours(one), !one->leased);
	image_close(one);
}

/* With hours of work to lose: a guest is worth it, nobody else. */
static void check_breaking(void)
{
	struct image *one, *two;

	CHECK_IS(open_image("a.img", IMAGE_EXCLUSIVE, 0, &one), 0);
	if (one->leased) {
		CHECK_IS(open_image("a.img", IMAGE_UNLOCKED, IMAGE_MAP_ONLY, &two), 0);
		CHECK(image_map_is_identity(two->map));
		image_close(two);
		CHECK_IS(open_image("a.img", IMAGE_UNLOCKED, 0, &two), -EAGAIN);
		CHECK_IS(open_image("a.img", IMAGE_EXCLUSIVE, 0, &two), -EBUSY);
		CHECK_IS(open_image("a.img", IMAGE_EXCLUSIVE, IMAGE_READ_ONLY, &two), -EBUSY);
		CHECK(!image_wanted(one));
		CHECK_IS(open_image("a.img", IMAGE_SHARED, 0, &two), -EBUSY);
		CHECK(image_wanted(one));
	}
	image_close(one);
}

/* Somebody who has the file open and never heard of the lock. */
static void check_lease(void)
{
	struct image *image;
	int other = openat(dir_fd, "a.img", O_RDONLY);
	int rc = open_image("a.img", IMAGE_EXCLUSIVE, 0, &image);

	CHECK(rc == -EBUSY || (rc == 0 && !image->leased));
	if (rc == 0)
		image_close(image);
	CHECK_IS(open_image("a.img", IMAGE_EXCLUSIVE, IMAGE_READ_ONLY, &image), 0);
	CHECK(image->read_only && !image->leased);
	CHECK_IS(image_begin(image), -EROFS);
	image_close(image);
	close(other);
}

static unsigned int count_names(void)
{
	char path[32];

	snprintf(path, sizeof path, "/proc/self/fd/%d", dir_fd);
	return count_entries(path);
}

/* The lease is lost before commit: nothing changes, nothing is left behind. */
static void check_lost_lease(void)
{
	struct image *image;
	unsigned int entries = count_names();

	CHECK_IS(open_image("a.img", IMAGE_EXCLUSIVE, 0, &image), 0);
	if (image->leased) {
		CHECK_IS(image_begin(image), 0);
		CHECK_IS(map_db_put_map(image->db, image->map), 0);
		CHECK_IS(openat(dir_fd, "a.img", O_RDONLY | O_NONBLOCK), -1);
		CHECK_IS(errno, EWOULDBLOCK);
		image->lease_safe_until_ms = 0; /* as if 45 seconds had passed */
		CHECK_IS(image_commit(image), -EBUSY);
		CHECK_IS(count_names(), entries);
		CHECK(image->bundle_fd < 0 && !image->db);
	}
	image_close(image);
}

static int count_waiters;

/* Opens the plain file and waits for it, like somebody who knows nothing of zcfs. */
static void foreigner_comes(const struct image *image)
{
	fflush(stdout);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		char bytes[5];

		close(image->data_fd); /* or the lease would outlive its holder */
		int fd = openat(dir_fd, "c.img", O_RDWR);

		_exit(fd < 0 || read(fd, bytes, sizeof bytes) != sizeof bytes || memcmp(bytes, "bytes", 5) != 0);
	}
	count_waiters++;
	while (!image_wanted(image))
		usleep(1000);
}

static const struct image *wanted_at_exchange;

static int rename_with_foreigner(const struct io *io, int old_fd, const char *old_name, int new_fd,
                                 const char *new_name, unsigned int flags)
{
	if (flags == RENAME_EXCHANGE && !strcmp(new_name, "c.img") && !image_wanted(wanted_at_exchange))
		foreigner_comes(wanted_at_exchange);
	return io_fast.rename(&io_fast, old_fd, old_name, new_fd, new_name, flags);
}

/* Who waits for the plain file gets it, whenever he has come, and it stays what it is. */
static void check_foreigner(bool at_exchange)
{
	struct io io = io_fast;
	struct image *image;
	unsigned int entries;
	struct stat status;
	int ended = 0;

	if (at_exchange)
		io.rename = rename_with_foreigner;
	write_file(dir_fd, "c.img", "bytes", 5);
	entries = count_names();
	CHECK_IS(image_open(&io, dir_fd, "c.img", IMAGE_EXCLUSIVE, 0, 50, &image), 0);
	if (image->leased) {
		wanted_at_exchange = image;
		count_waiters = 0;
		CHECK_IS(image_begin(image), 0);
		CHECK_IS(map_db_put_map(image->db, image->map), 0);
		if (!at_exchange)
			foreigner_comes(image);
		CHECK(image_still_ours(image));
		CHECK_IS(image_commit(image), -EBUSY);
		CHECK_IS(count_waiters, 1);
		CHECK_IS(count_names(), entries);
		CHECK_IS(fstatat(dir_fd, "c.img", &status, AT_SYMLINK_NOFOLLOW), 0);
		CHECK(S_ISREG(status.st_mode) && status.st_nlink == 1);
	}
	image_close(image);
	while (count_waiters > 0 && count_waiters--)
		CHECK(wait(&ended) > 0 && ended == 0);
	CHECK_IS(unlinkat(dir_fd, "c.img", 0), 0);
}

static void adopt_a(struct image *image)
{
	CHECK_IS(image_begin(image), 0);
	CHECK_IS(map_db_put_map(image->db, image->map), 0);
}

/* Who waits for the lock while a plain image is to become a bundle keeps it from that, where he can be seen; otherwise
 * he finds the bundle. */
static void check_adoption_while_waiting(void)
{
	struct image *image;
	int ready[2];
	char byte = 0;

	CHECK_IS(pipe(ready), 0);
	pid_t child = fork();
	if (child == 0) {
		struct image *mine;
		struct timespec pause = {.tv_nsec = 200000000};

		CHECK_IS(open_image("a.img", IMAGE_EXCLUSIVE, 0, &mine), 0);
		adopt_a(mine);
		CHECK_IS(write(ready[1], &byte, 1), 1);
		nanosleep(&pause, NULL);
		CHECK_IS(image_commit(mine), mine->leased ? -EBUSY : 0);
		image_close(mine);
		_exit(0);
	}
	int status;
	CHECK_IS(read(ready[0], &byte, 1), 1);
	CHECK_IS(open_image("a.img", IMAGE_SHARED, IMAGE_WAIT, &image), 0);
	CHECK(image->waited);
	CHECK_IS(waitpid(child, &status, 0), child);
	CHECK_IS(status, 0);
	bool plain = image->bundle_fd < 0;
	image_close(image);
	CHECK_IS(open_image("a.img", IMAGE_EXCLUSIVE, 0, &image), 0);
	CHECK(plain == (image->bundle_fd < 0) && plain == image->leased);
	if (plain) {
		adopt_a(image);
		CHECK_IS(image_commit(image), 0);
	}
	CHECK_IS(image->state.generation, 2);
	image_close(image);
	close(ready[0]);
	close(ready[1]);
}

static void check_undo_validity(void)
{
	struct run_record run = {.operation = "undo"};
	struct image *image;
	bool valid;

	CHECK_IS(scenario_run(&io_fast, dir_fd, scenario_find("change")), 0);
	CHECK_IS(open_image("a.img", IMAGE_EXCLUSIVE, 0, &image), 0);
	CHECK_IS(map_db_undo_valid(image->db, image->data_fd, &valid), 0);
	CHECK(valid);
	CHECK_IS(pwrite(image->data_fd, "x", 1, 0), 1); /* the guest's first write ends it */
	CHECK_IS(image_undo(image, &run), -ENODATA);
	CHECK_IS(map_db_drop_undo(image->db), 0);
	CHECK_IS(map_db_read_state(image->db, &image->state), 0);
	CHECK(!image->state.undo_recorded);
	image_close(image);
}

/* An adoption as far as the owner is concerned. */
static struct {
	struct stat directory; /* of the staging bundle, once it is his */
	unsigned int members;  /* that were given to him before */
	bool given;
	bool exchanged; /* the bundle has the image's name */
} adoption;

static bool is_given(int from_fd)
{
	struct stat status;

	return adoption.given && !adoption.exchanged && fstat(from_fd, &status) == 0 &&
	       status.st_ino == adoption.directory.st_ino && status.st_dev == adoption.directory.st_dev;
}

/* In place of libc's. */
int fchownat(int from_fd, const char *name, uid_t uid, gid_t gid, int flags)
{
	CHECK(!is_given(from_fd));
	if (*name) {
		adoption.members++;
	} else {
		CHECK_IS(fstat(from_fd, &adoption.directory), 0);
		adoption.given = true;
	}
	return (int)syscall(SYS_fchownat, from_fd, name, uid, gid, flags);
}

int fchown(int fd, uid_t uid, gid_t gid)
{
	struct stat status;

	CHECK_IS(fstat(fd, &status), 0);
	if (S_ISREG(status.st_mode)) /* the journal, just made */
		return (int)syscall(SYS_fchown, fd, uid, gid);
	return fchownat(fd, "", uid, gid, AT_EMPTY_PATH);
}

static int open_before_given(const struct io *io, int from_fd, const char *path, int flags, mode_t mode)
{
	CHECK(!is_given(from_fd));
	return io_fast.open(&io_fast, from_fd, path, flags, mode);
}

static int link_before_given(const struct io *io, int old_fd, const char *old_name, int new_fd, const char *new_name)
{
	CHECK(!is_given(new_fd));
	return io_fast.link(&io_fast, old_fd, old_name, new_fd, new_name);
}

static int rename_before_given(const struct io *io, int old_fd, const char *old_name, int new_fd, const char *new_name,
                               unsigned int flags)
{
	CHECK(!is_given(old_fd) && !is_given(new_fd));
	adoption.exchanged = adoption.exchanged || (flags == RENAME_EXCHANGE && !strcmp(new_name, "c.img"));
	return io_fast.rename(&io_fast, old_fd, old_name, new_fd, new_name, flags);
}

static int unlink_before_given(const struct io *io, int from_fd, const char *name, int flags)
{
	CHECK(!is_given(from_fd));
	return io_fast.unlink(&io_fast, from_fd, name, flags);
}

static int mkdir_before_given(const struct io *io, int from_fd, const char *name, mode_t mode)
{
	CHECK(!is_given(from_fd));
	return io_fast.mkdir(&io_fast, from_fd, name, mode);
}

static int adopt_c(const struct io *io)
{
	struct image *image;

	CHECK_IS(image_open(io, dir_fd, "c.img", IMAGE_EXCLUSIVE, 0, 50, &image), 0);
	int rc = image_begin(image);
	if (rc == 0) {
		CHECK_IS(map_db_put_map(image->db, image->map), 0);
		rc = image_commit(image);
	}
	image_close(image);
	return rc;
}

/* The owner of the directory could put somebody else's file under any name in it. */
static void check_owner_comes_last(void)
{
	struct io io = io_fast;
	struct stat data, bundle, db;

	io.open = open_before_given;
	io.link = link_before_given;
	io.rename = rename_before_given;
	io.unlink = unlink_before_given;
	io.mkdir = mkdir_before_given;
	write_file(dir_fd, "c.img", "bytes", 5);
	if (geteuid() == 0)
		CHECK_IS(syscall(SYS_fchownat, dir_fd, "c.img", 1234, 2345, 0), 0);
	adoption.members = 0;
	CHECK_IS(adopt_c(&io), 0);
	CHECK(adoption.given && adoption.exchanged);
	CHECK_IS(adoption.members, 1);
	CHECK_IS(fstatat(dir_fd, "c.img/data", &data, 0), 0);
	CHECK_IS(fstatat(dir_fd, "c.img/map.db", &db, 0), 0);
	CHECK_IS(fstatat(dir_fd, "c.img", &bundle, 0), 0);
	CHECK(db.st_uid == data.st_uid && db.st_gid == data.st_gid);
	CHECK(bundle.st_uid == data.st_uid && bundle.st_gid == data.st_gid);
	CHECK_IS(image_unlink_bundle(&io_fast, dir_fd, "c.img"), 0);
}

/* Just before the new staging directory is opened, somebody puts another one under its name. */
static int open_another(const struct io *io, int from_fd, const char *path, int flags, mode_t mode)
{
	if (!strncmp(path, ".c.img.zcfs-", 12) && faccessat(dir_fd, "another", F_OK, 0) == 0) {
		CHECK_IS(renameat2(dir_fd, path, dir_fd, "moved", RENAME_NOREPLACE), 0);
		CHECK_IS(renameat2(dir_fd, "another", dir_fd, path, RENAME_NOREPLACE), 0);
	}
	return io_fast.open(&io_fast, from_fd, path, flags, mode);
}

static int find_hidden(void *context, const char *entry)
{
	if (!strncmp(entry, ".c.img.zcfs-", 12))
		snprintf(context, 64, "%s", entry);
	return 0;
}

static void check_another_directory(void)
{
	struct io io = io_fast;
	char hidden[64] = "";

	io.open = open_another;
	write_file(dir_fd, "c.img", "bytes", 5);
	CHECK_IS(mkdirat(dir_fd, "another", 0700), 0);
	int another = openat(dir_fd, "another", O_RDONLY | O_DIRECTORY);
	write_file(another, "data", "only copy", 9);
	adoption.given = adoption.exchanged = false;
	CHECK_IS(adopt_c(&io), -ESTALE);
	CHECK(!adoption.given);
	CHECK_IS(faccessat(another, "data", F_OK, 0), 0);
	CHECK(faccessat(another, "map.db", F_OK, 0) < 0);
	close(another);
	CHECK_IS(io_look_entries(dir_fd, find_hidden, hidden), 0);
	CHECK_IS(renameat2(dir_fd, hidden, dir_fd, "another", RENAME_NOREPLACE), 0);
	CHECK_IS(unlinkat(dir_fd, "another/data", 0), 0);
	CHECK_IS(unlinkat(dir_fd, "another", AT_REMOVEDIR), 0);
	CHECK_IS(unlinkat(dir_fd, "moved", AT_REMOVEDIR), 0);
	CHECK_IS(unlinkat(dir_fd, "c.img", 0), 0);
}

/* Names that somebody exchanges just before they are opened, and back again after. */
static int exchanges_left;

static int open_exchanged(const struct io *io, int from_fd, const char *path, int flags, mode_t mode)
{
	bool exchange = from_fd >= 0 && (!strcmp(path, "a.img") || !strcmp(path, "b.img")) && exchanges_left-- > 0;

	if (exchange)
		CHECK_IS(renameat2(dir_fd, "a.img", dir_fd, "b.img", RENAME_EXCHANGE), 0);
	int fd = io_fast.open(&io_fast, from_fd, path, flags, mode);
	if (exchange)
		CHECK_IS(renameat2(dir_fd, "a.img", dir_fd, "b.img", RENAME_EXCHANGE), 0);
	return fd;
}

/* a.img is a bundle, b.img is not. */
static void check_exchanges(void)
{
	struct io io = io_fast;
	struct image *image;
	struct stat status;
	enum name_kind kind;

	io.open = open_exchanged;
	exchanges_left = 1;
	CHECK_IS(image_classify(&io, dir_fd, "a.img", &kind, &status), 0);
	CHECK_IS(kind, NAME_BUNDLE);
	CHECK(exchanges_left <= 0);
	for (int i = 0; i < 2; i++) {
		exchanges_left = 1;
		CHECK_IS(image_open(&io, dir_fd, i == 0 ? "a.img" : "b.img", IMAGE_SHARED, 0, 0, &image), 0);
		CHECK((image->bundle_fd >= 0) == (i == 0));
		CHECK(exchanges_left <= 0);
		image_close(image);
	}
}

static void check_classes(void)
{
	struct image *image;
	struct stat status;
	enum name_kind kind;

	CHECK_IS(image_classify(&io_fast, dir_fd, "a.img", &kind, &status), 0);
	CHECK_IS(kind, NAME_BUNDLE);
	CHECK(S_ISREG(status.st_mode) && status.st_size == IMAGE_SIZE);
	CHECK_IS(image_classify(&io_fast, dir_fd, "b.img", &kind, &status), 0);
	CHECK_IS(kind, NAME_FILE);
	CHECK_IS(image_classify(&io_fast, dir_fd, "none", &kind, &status), -ENOENT);
	CHECK_IS(open_image("none", IMAGE_SHARED, 0, &image), -ENOENT);

	CHECK_IS(mkdirat(dir_fd, "folder", 0700), 0);
	CHECK_IS(image_classify(&io_fast, dir_fd, "folder", &kind, &status), 0);
	CHECK_IS(kind, NAME_OTHER);
	CHECK_IS(open_image("folder", IMAGE_SHARED, 0, &image), -EISDIR);
	CHECK_IS(symlinkat("b.img", dir_fd, "link"), 0);
	CHECK_IS(image_classify(&io_fast, dir_fd, "link", &kind, &status), 0);
	CHECK_IS(kind, NAME_OTHER);
	CHECK_IS(open_image("link", IMAGE_SHARED, 0, &image), -ELOOP);
	CHECK_IS(image_rename_replace(&io_fast, dir_fd, "a.img", dir_fd, "folder"), -EISDIR);
	CHECK_IS(image_rename_replace(&io_fast, dir_fd, "folder", dir_fd, "a.img"), -ENOTDIR);
	CHECK_IS(image_rename_replace(&io_fast, dir_fd, "none", dir_fd, "a.img"), -ENOENT);

	CHECK(image_name_reserved("map.db") && image_name_reserved(".a.zcfs-x") && image_name_reserved(".xzcfs-y"));
	CHECK(!image_name_reserved("data") && !image_name_reserved("zcfs-x") && !image_name_reserved(".zcfs"));
}

static void check_links(void)
{
	struct image *image;

	CHECK_IS(linkat(dir_fd, "b.img", dir_fd, "other name", 0), 0);
	CHECK_IS(open_image("b.img", IMAGE_EXCLUSIVE, 0, &image), 0);
	CHECK_IS(image_begin(image), -EMLINK);
	image_close(image);
	CHECK_IS(unlinkat(dir_fd, "other name", 0), 0);
}

/* Bundles that zcfs cannot have made. Each is built from the good one, and refused. */
static void check_forged(void)
{
	static const char *const ways[] = {"no data",       "data a link",   "data a directory", "data linked",
	                                   "map.db a FIFO", "map.db a link", "map.db empty"};

	for (size_t way = 0; way < sizeof ways / sizeof ways[0]; way++) {
		struct image *image;
		struct stat status;
		enum name_kind kind;
		int from = openat(dir_fd, "a.img", O_RDONLY | O_DIRECTORY);

		check_context("%s", ways[way]);
		CHECK_IS(mkdirat(dir_fd, "forged", 0700), 0);
		int to = openat(dir_fd, "forged", O_RDONLY | O_DIRECTORY);
		copy_directory(from, to);
		if (way <= 2)
			CHECK_IS(unlinkat(to, "data", 0), 0);
		if (way >= 4)
			CHECK_IS(unlinkat(to, "map.db", 0), 0);
		switch (way) {
		case 1:
			CHECK_IS(symlinkat("../b.img", to, "data"), 0);
			break;
		case 2:
			CHECK_IS(mkdirat(to, "data", 0700), 0);
			break;
		case 3:
			CHECK_IS(linkat(to, "data", dir_fd, "outside", 0), 0);
			break;
		case 4:
			CHECK_IS(mkfifoat(to, "map.db", 0600), 0);
			break;
		case 5:
			CHECK_IS(symlinkat("../a.img/map.db", to, "map.db"), 0);
			break;
		case 6:
			write_file(to, "map.db", "", 0);
			break;
		default:
			break;
		}
		CHECK(image_classify(&io_fast, dir_fd, "forged", &kind, &status) < 0);
		CHECK(open_image("forged", IMAGE_SHARED, 0, &image) < 0);
		CHECK(open_image("forged", IMAGE_EXCLUSIVE, 0, &image) < 0);
		empty_directory(to);
		close(from);
		close(to);
		CHECK_IS(unlinkat(dir_fd, "forged", AT_REMOVEDIR), 0);
		unlinkat(dir_fd, "outside", 0);
	}
	check_context("%s", "");
}

static void check_rename_waits_for_tools(void)
{
	struct image *image;

	CHECK_IS(open_image("a.img", IMAGE_EXCLUSIVE, 0, &image), 0);
	CHECK_IS(image_rename_replace(&io_fast, dir_fd, "a.img", dir_fd, "b.img"), -EAGAIN);
	CHECK_IS(image_rename_replace(&io_fast, dir_fd, "b.img", dir_fd, "a.img"), -EAGAIN);
	image_close(image);
	CHECK_IS(open_image("a.img", IMAGE_SHARED, 0, &image), 0);
	CHECK_IS(image_rename_replace(&io_fast, dir_fd, "a.img", dir_fd, "b.img"), 0);
	image_close(image);
}

int main(void)
{
	dir_fd = scratch_directory();
	scenario_start(dir_fd);
	unsigned int descriptors = count_descriptors();

	check_locks();
	check_breaking();
	check_lease();
	check_lost_lease();
	check_owner_comes_last();
	check_another_directory();
	check_links();
	check_foreigner(false);
	check_foreigner(true);
	check_adoption_while_waiting();
	check_undo_validity();
	check_exchanges();
	check_classes();
	check_forged();
	check_rename_waits_for_tools();
	CHECK_IS(count_descriptors(), descriptors);
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promises of mapdb/image_stale.c: what a change that was cut short leaves is cleaned, whatever keeps it for a while is
 * no damage, and nothing else is taken for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "mapdb/image.h"
#include "scenario.h"

static int dir_fd;

/* Entries that look stale but hold something that is nowhere else are left alone. */
static void check_cleaning_is_careful(void)
{
	unsigned int removed, left;

	write_file(dir_fd, ".b.img.zcfs-abcdef", "only copy", 9);
	write_file(dir_fd, ".gone.img.zcfs-abcdef", "only copy", 9);
	write_file(dir_fd, ".b.img.zcfs-replace-1-2", "only copy", 9);
	write_file(dir_fd, ".b.img.zcfs-something", "not ours", 8);
	CHECK_IS(mkdirat(dir_fd, ".b.img.zcfs-ABCDEF", 0700), 0);
	int fd = openat(dir_fd, ".b.img.zcfs-ABCDEF", O_RDONLY | O_DIRECTORY);
	write_file(fd, "data", "only copy", 9);
	close(fd);
	CHECK_IS(image_clean_stale(&io_fast, dir_fd, &removed, &left), 0);
	CHECK_IS(removed, 0);
	CHECK_IS(left, 4);
	CHECK_IS(faccessat(dir_fd, ".b.img.zcfs-ABCDEF/data", F_OK, 0), 0);
	CHECK_IS(faccessat(dir_fd, ".gone.img.zcfs-abcdef", F_OK, 0), 0);
	CHECK_IS(faccessat(dir_fd, ".b.img.zcfs-replace-1-2", F_OK, 0), 0);
}

/* An image keeps what an adoption has left of it when it is renamed: the inode tells whose it is. */
static void check_cleaning_after_rename(void)
{
	unsigned int removed, left;
	enum name_kind kind;
	struct stat status;

	write_file(dir_fd, "renamed.img", "bytes", 5);
	copy_bundle(dir_fd, "a.img", ".old.img.zcfs-abcdef");
	CHECK_IS(unlinkat(dir_fd, ".old.img.zcfs-abcdef/data", 0), 0);
	CHECK_IS(linkat(dir_fd, "renamed.img", dir_fd, ".old.img.zcfs-abcdef/data", 0), 0);
	CHECK_IS(image_clean_stale(&io_fast, dir_fd, &removed, &left), 0);
	CHECK_IS(removed, 1);
	CHECK_IS(left, 0);
	CHECK_IS(fstatat(dir_fd, "renamed.img", &status, 0), 0);
	CHECK_IS(status.st_nlink, 1);
	CHECK_IS(unlinkat(dir_fd, "renamed.img", 0), 0);

	CHECK_IS(linkat(dir_fd, "a.img/data", dir_fd, ".old.img.zcfs-abcdef", 0), 0);
	CHECK_IS(image_classify(&io_fast, dir_fd, "a.img", &kind, &status), 0);
	CHECK_IS(kind, NAME_BUNDLE);
	CHECK_IS(image_clean_stale(&io_fast, dir_fd, &removed, &left), 0);
	CHECK_IS(removed, 1);
	CHECK_IS(left, 0);
}

/* What a directory under a hidden name holds, in letters: D data, M a map database, J a journal, P an empty probe; d,
 * m, j, p: the same names otherwise, as make_member() says. */
struct hidden_directory {
	const char *members;
	bool goes;
	const char *what;
};

static void make_member(int from, int to, char member)
{
	static const uint8_t unmade[512] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
	static const char others[100] = "SQLite format 3\0\x10";
	static const char *const names[] = {['D'] = "data", ['M'] = "map.db"};

	switch (member) {
	case 'D':
	case 'M':
		CHECK_IS(linkat(from, names[(int)member], to, names[(int)member], 0), 0);
		break;
	case 'J':
		write_file(to, "map.db-journal", "anything", 8);
		break;
	case 'P':
	case 'm':
		CHECK_IS(mkdirat(to, member == 'P' ? "probe" : "map.db", 0700), 0);
		break;
	case 'p':
		CHECK_IS(linkat(from, "map.db", to, "probe", 0), 0);
		break;
	case 'e':
		write_file(to, "map.db", "", 0);
		break;
	case 'z': /* written in part, of which the power took more */
		write_file(to, "map.db", (const uint8_t[4096]){0}, 4096);
		break;
	case 'j':
		write_file(to, "map.db-journal", unmade, sizeof unmade);
		break;
	case 'f':
		CHECK_IS(mkfifoat(to, "map.db", 0600), 0);
		break;
	case 'l':
		CHECK_IS(symlinkat("../a.img/map.db", to, "map.db"), 0);
		break;
	case 'o': /* another program's */
		write_file(to, "map.db", others, sizeof others);
		break;
	default:
		write_file(to, "stranger", "", 0);
	}
}

static void check_hidden_directory(const struct hidden_directory *directory, const char *entry)
{
	unsigned int removed, left, members = 2;
	char path[64];
	int from = openat(dir_fd, "whole", O_RDONLY | O_DIRECTORY);

	check_context("%s: %s", entry, directory->what);
	CHECK_IS(mkdirat(dir_fd, entry, 0700), 0);
	int to = openat(dir_fd, entry, O_RDONLY | O_DIRECTORY);
	for (const char *member = directory->members; *member; member++, members++)
		make_member(from, to, *member);
	CHECK_IS(image_clean_stale(&io_fast, dir_fd, &removed, &left), 0);
	CHECK_IS(removed, directory->goes);
	CHECK_IS(left, !directory->goes);
	CHECK_IS(faccessat(dir_fd, entry, F_OK, 0), directory->goes ? -1 : 0);
	if (!directory->goes) {
		snprintf(path, sizeof path, "/proc/self/fd/%d", to);
		CHECK_IS(count_entries(path), members);
		empty_directory(to);
		CHECK_IS(unlinkat(dir_fd, entry, AT_REMOVEDIR), 0);
	}
	close(from);
	close(to);
	check_context("%s", "");
}

/* Who can rename a directory is not to have the files in it removed by root. But whatever interruptions leave of a
 * bundle goes. */
static void check_only_bundles_are_removed(void)
{
	static const struct hidden_directory directories[] = {
	        {"DM", true, "whole"},
	        {"DMJ", true, "whole, in the middle of a change"},
	        {"M", true, "without data"},
	        {"MJ", true, "without data, in the middle of a change"},
	        {"", true, "empty"},
	        {"J", true, "only the journal is left"},
	        {"MP", true, "with a probe"},
	        {"mp", true, "exchanged with the probe"},
	        {"m", true, "exchanged, and the database gone"},
	        {"e", true, "the database was just created"},
	        {"eJ", true, "the database was created, and a journal"},
	        {"zj", true, "the database was half made"},
	        {"D", false, "data, and nothing else"},
	        {"DJ", false, "data and a journal"},
	        {"De", false, "data and an empty map.db"},
	        {"Dzj", false, "data and a half-made map.db"},
	        {"Do", false, "data and another program's map.db"},
	        {"o", false, "another program's map.db"},
	        {"oJP", false, "another program's map.db, journal and probe"},
	        {"z", false, "a map.db of zeros"},
	        {"f", false, "a FIFO"},
	        {"Dl", false, "a link"},
	        {"DMs", false, "a bundle with a stranger"},
	        {"s", false, "a stranger"},
	};

	copy_bundle(dir_fd, "a.img", "whole");
	for (size_t i = 0; i < sizeof directories / sizeof directories[0]; i++) {
		check_hidden_directory(&directories[i], ".x.zcfs-removed-abcdef");
		check_hidden_directory(&directories[i], ".b.img.zcfs-plain-abcdef");
		if (!strchr(directories[i].members, 'D'))
			check_hidden_directory(&directories[i], ".b.img.zcfs-abcdef");
	}
	int fd = openat(dir_fd, "whole", O_RDONLY | O_DIRECTORY);
	empty_directory(fd);
	close(fd);
	CHECK_IS(unlinkat(dir_fd, "whole", AT_REMOVEDIR), 0);
}

/* A replacement of victim by what is called mine, as somebody forges it. True if it is carried out. */
static bool is_replaced(const char *mine, const char *victim)
{
	struct stat new, old, now;
	char entry[80];
	unsigned int removed, left;

	CHECK_IS(fstatat(dir_fd, mine, &new, AT_SYMLINK_NOFOLLOW), 0);
	CHECK_IS(fstatat(dir_fd, victim, &old, AT_SYMLINK_NOFOLLOW), 0);
	snprintf(entry, sizeof entry, ".%s.zcfs-replace-%jx-%jx", victim, (uintmax_t) new.st_ino,
	         (uintmax_t)old.st_ino);
	CHECK_IS(renameat(dir_fd, mine, dir_fd, entry), 0);
	CHECK_IS(image_clean_stale(&io_fast, dir_fd, &removed, &left), 0);
	CHECK_IS(fstatat(dir_fd, victim, &now, AT_SYMLINK_NOFOLLOW), 0);
	CHECK_IS(removed + left, 1);
	CHECK_IS(now.st_ino, removed ? new.st_ino : old.st_ino);
	if (left)
		CHECK_IS(renameat(dir_fd, entry, dir_fd, mine), 0);
	return removed;
}

static void check_replacing_by_no_image(void)
{
	write_file(dir_fd, "victim", "bytes", 5);
	CHECK_IS(symlinkat("b.img", dir_fd, "mine"), 0);
	CHECK(!is_replaced("mine", "victim"));
	CHECK_IS(unlinkat(dir_fd, "mine", 0), 0);
	CHECK_IS(mkfifoat(dir_fd, "mine", 0600), 0);
	CHECK(!is_replaced("mine", "victim"));
	CHECK_IS(unlinkat(dir_fd, "mine", 0), 0);
	CHECK_IS(mkdirat(dir_fd, "mine", 0700), 0);
	CHECK(!is_replaced("mine", "victim"));
	CHECK_IS(unlinkat(dir_fd, "mine", AT_REMOVEDIR), 0);
	copy_bundle(dir_fd, "a.img", "mine");
	CHECK(is_replaced("mine", "victim"));
	write_file(dir_fd, "mine", "bytes", 5);
	CHECK(is_replaced("mine", "victim"));
	CHECK_IS(unlinkat(dir_fd, "victim", 0), 0);
}

static void give(const char *name, uid_t owner)
{
	CHECK_IS(fchownat(dir_fd, name, owner, (gid_t)-1, AT_SYMLINK_NOFOLLOW), 0);
}

/* By a file or a bundle of new_owner's, an image of old_owner's; in a directory of user 1. */
static bool is_replaced_by(uid_t new_owner, uid_t old_owner, bool bundle)
{
	write_file(dir_fd, "victim", "bytes", 5);
	give("victim", old_owner);
	if (bundle)
		copy_bundle(dir_fd, "a.img", "mine"); /* whoever owns what is in it */
	else
		write_file(dir_fd, "mine", "bytes", 5);
	give("mine", new_owner);
	bool replaced = is_replaced("mine", "victim");
	const char *place = replaced ? "victim" : "mine";
	if (bundle)
		CHECK_IS(image_unlink_bundle(&io_fast, dir_fd, place), 0);
	else
		CHECK_IS(unlinkat(dir_fd, place, 0), 0);
	if (!replaced)
		CHECK_IS(unlinkat(dir_fd, "victim", 0), 0);
	return replaced;
}

/* In a sticky directory nobody can have another's image replaced by whoever cleans. */
static void check_replacing_in_sticky_directory(void)
{
	CHECK_IS(fchmod(dir_fd, 01777), 0);
	CHECK(is_replaced_by(geteuid(), geteuid(), false));
	CHECK(is_replaced_by(geteuid(), geteuid(), true));
	write_file(dir_fd, "victim", "bytes", 5);
	write_file(dir_fd, "twice", "bytes", 5);
	CHECK_IS(linkat(dir_fd, "twice", dir_fd, "mine", 0), 0);
	CHECK(!is_replaced("mine", "victim"));
	for (int i = 0; i < 3; i++)
		CHECK_IS(unlinkat(dir_fd, (const char *const[]){"victim", "twice", "mine"}[i], 0), 0);
	if (geteuid() == 0) {
		give(".", 1);
		for (int bundle = 0; bundle < 2; bundle++) {
			CHECK(!is_replaced_by(3, 2, bundle));
			CHECK(!is_replaced_by(3, 1, bundle));
			CHECK(!is_replaced_by(3, 0, bundle));
			CHECK(is_replaced_by(2, 2, bundle));
			CHECK(is_replaced_by(1, 2, bundle));
			CHECK(is_replaced_by(0, 2, bundle));
		}
		CHECK_IS(fchmod(dir_fd, 0777), 0);
		CHECK(is_replaced_by(3, 2, false)); /* he could have done it himself */
		give(".", 0);
	}
	CHECK_IS(fchmod(dir_fd, 0700), 0);
}

static uint64_t inode_of(const char *name)
{
	struct stat status;

	CHECK_IS(fstatat(dir_fd, name, &status, AT_SYMLINK_NOFOLLOW), 0);
	return status.st_ino;
}

/* A file system gives a number again, or the next one: sooner or later as it is told here. */
static void check_replacing_what_came_later(void)
{
	char hidden[64];
	uint64_t number;
	int tries = 0;

	do {
		write_file(dir_fd, "mine", "bytes", 5);
		write_file(dir_fd, "victim", "bytes", 5);
		number = inode_of("victim") + (uint64_t)(tries % 2);
		CHECK_IS(unlinkat(dir_fd, "victim", 0), 0);
		snprintf(hidden, sizeof hidden, ".victim.zcfs-replace-%llx-%llx", (unsigned long long)inode_of("mine"),
		         (unsigned long long)number);
		CHECK_IS(renameat(dir_fd, "mine", dir_fd, hidden), 0);
		nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
		write_file(dir_fd, "victim", "later", 5);
		if (inode_of("victim") == number) {
			unsigned int removed;
			CHECK_IS(image_clean_stale(&io_fast, dir_fd, &removed, NULL), 0);
			CHECK_IS(removed, 0);
			CHECK_IS(inode_of("victim"), number);
			tries = 100;
		}
		CHECK_IS(unlinkat(dir_fd, hidden, 0), 0);
		CHECK_IS(unlinkat(dir_fd, "victim", 0), 0);
	} while (++tries < 100);
}

static int unlink_error;

static int fail_to_unlink(const struct io *io, int from_fd, const char *name, int flags)
{
	return unlink_error;
}

/* What a killed adoption leaves is no damage, whatever keeps it there. */
static void check_leftover_that_stays(void)
{
	static const int errors[] = {-EIO, -ENOSPC, -EROFS, -EACCES, -ENOMEM, -ESTALE};
	struct image *image;
	struct io io = io_fast;

	CHECK_IS(linkat(dir_fd, "a.img/data", dir_fd, ".a.img.zcfs-abcdef", 0), 0);
	io.unlink = fail_to_unlink;
	for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
		unlink_error = errors[i];
		for (enum image_access access = IMAGE_SHARED; access <= IMAGE_EXCLUSIVE; access++)
			CHECK_IS(image_open(&io, dir_fd, "a.img", access, 0, 0, &image), unlink_error);
	}
	int look_fd = openat(dir_fd, "a.img/data", O_RDONLY);
	CHECK_IS(flock(look_fd, LOCK_SH), 0);
	CHECK_IS(image_open(&io_fast, dir_fd, "a.img", IMAGE_SHARED, 0, 50, &image), -EBUSY);
	close(look_fd);
	CHECK_IS(image_open(&io_fast, dir_fd, "a.img", IMAGE_SHARED, 0, 50, &image), 0);
	image_close(image);
	CHECK_IS(faccessat(dir_fd, ".a.img.zcfs-abcdef", F_OK, 0), -1);
}

int main(void)
{
	dir_fd = scratch_directory();
	scenario_start(dir_fd);
	CHECK_IS(scenario_run(&io_fast, dir_fd, 0), 0); /* adopts a.img */
	unsigned int descriptors = count_descriptors();

	check_cleaning_after_rename();
	check_only_bundles_are_removed();
	check_replacing_by_no_image();
	check_replacing_in_sticky_directory();
	check_replacing_what_came_later();
	check_leftover_that_stays();
	check_cleaning_is_careful();
	CHECK_IS(count_descriptors(), descriptors);
	return 0;
}

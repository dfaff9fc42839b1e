/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static uint64_t seed, random_state;
static char context[1024];
static char scratch_path[256];
static int scratch_fd = -1;

static noreturn void give_up(void)
{
	if (context[0])
		fprintf(stderr, "while: %s\n", context);
	if (seed)
		fprintf(stderr, "replay with SEED=%" PRIu64 "\n", seed);
	abort();
}

noreturn void check_failed(const char *file, int line, const char *what)
{
	fprintf(stderr, "%s:%d: not true: %s\n", file, line, what);
	give_up();
}

noreturn void check_failed_value(const char *file, int line, const char *what, long long value, long long expected)
{
	fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", file, line, what, value, expected);
	give_up();
}

void check_context(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(context, sizeof context, format, arguments);
	va_end(arguments);
}

noreturn void check_skip(const char *reason)
{
	fprintf(stderr, "skipped: %s\n", reason);
	exit(77);
}

void random_start(void)
{
	const char *given = getenv("SEED");
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	seed = given ? strtoull(given, NULL, 0) : (uint64_t)now.tv_sec * 1000003 ^ (uint64_t)now.tv_nsec;
	random_state = seed | 1;
}

uint64_t random_u64(void) /* xorshift64* */
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * UINT64_C(2685821657736338717);
}

uint64_t random_below(uint64_t limit)
{
	return (random_u64() >> 16) % limit;
}

void random_bytes(void *buffer, size_t length)
{
	uint8_t *to = buffer;

	for (size_t i = 0; i < length; i++)
		to[i] = (uint8_t)(random_u64() >> 32);
}

static void remove_entry(int dir_fd, const char *name)
{
	if (unlinkat(dir_fd, name, 0) == 0 || errno != EISDIR)
		return;
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY);
	if (fd >= 0) {
		empty_directory(fd);
		close(fd);
	}
	unlinkat(dir_fd, name, AT_REMOVEDIR);
}

void empty_directory(int dir_fd)
{
	DIR *directory = fdopendir(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY));
	struct dirent *entry;

	CHECK(directory);
	while ((entry = readdir(directory))) {
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			remove_entry(dir_fd, entry->d_name);
	}
	closedir(directory);
}

static void remove_scratch(void)
{
	empty_directory(scratch_fd);
	rmdir(scratch_path);
}

int scratch_directory(void)
{
	static unsigned int count;
	char name[16];
	const char *base = getenv("TMPDIR");

	if (!base) /* memory, if possible: no test here needs a disk, and some make ten thousand directories */
		base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";

	if (scratch_fd < 0) {
		snprintf(scratch_path, sizeof scratch_path, "%s/zcfs-test-XXXXXX", base);
		CHECK(mkdtemp(scratch_path));
		scratch_fd = open(scratch_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		CHECK(scratch_fd >= 0);
		atexit(remove_scratch);
	}
	snprintf(name, sizeof name, "%u", count++);
	CHECK_IS(mkdirat(scratch_fd, name, 0700), 0);
	int fd = openat(scratch_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(fd >= 0);
	return fd;
}

/* Files with several links, as far as they have been copied. */
struct copied_links {
	size_t count;
	struct copied_link {
		ino_t inode;
		int fd; /* of the copy */
	} list[16];
};

static void copy_bytes(int from, int to)
{
	char buffer[65536];
	ssize_t n;

	while ((n = read(from, buffer, sizeof buffer)) > 0)
		CHECK_IS(write(to, buffer, (size_t)n), n);
}

/* A second link to what has been copied already. */
static bool copy_link(const struct copied_links *links, ino_t inode, int to_dir, const char *name)
{
	char path[32];

	for (size_t i = 0; i < links->count; i++) {
		if (links->list[i].inode == inode) {
			snprintf(path, sizeof path, "/proc/self/fd/%d", links->list[i].fd);
			CHECK_IS(linkat(AT_FDCWD, path, to_dir, name, AT_SYMLINK_FOLLOW), 0);
			return true;
		}
	}
	return false;
}

static void copy_file(int from_dir, int to_dir, const char *name, const struct stat *status, struct copied_links *links)
{
	if (status->st_nlink > 1 && copy_link(links, status->st_ino, to_dir, name))
		return;
	int from = openat(from_dir, name, O_RDONLY), to = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL, 0600);

	CHECK(from >= 0 && to >= 0);
	copy_bytes(from, to);
	close(from);
	if (status->st_nlink > 1) {
		CHECK(links->count < sizeof links->list / sizeof links->list[0]);
		links->list[links->count++] = (struct copied_link){status->st_ino, to};
	} else {
		close(to);
	}
}

static void copy_entries(int from_fd, int to_fd, struct copied_links *links)
{
	DIR *directory = fdopendir(openat(from_fd, ".", O_RDONLY | O_DIRECTORY));
	struct dirent *entry;
	struct stat status;

	CHECK(directory);
	while ((entry = readdir(directory))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		CHECK_IS(fstatat(from_fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW), 0);
		if (!S_ISDIR(status.st_mode)) {
			copy_file(from_fd, to_fd, entry->d_name, &status, links);
			continue;
		}
		CHECK_IS(mkdirat(to_fd, entry->d_name, 0700), 0);
		int from = openat(from_fd, entry->d_name, O_RDONLY | O_DIRECTORY);
		int to = openat(to_fd, entry->d_name, O_RDONLY | O_DIRECTORY);
		copy_entries(from, to, links);
		close(from);
		close(to);
	}
	closedir(directory);
}

void copy_directory(int from_fd, int to_fd)
{
	struct copied_links links = {0};

	copy_entries(from_fd, to_fd, &links);
	for (size_t i = 0; i < links.count; i++)
		close(links.list[i].fd);
}

void write_file(int dir_fd, const char *name, const void *bytes, size_t length)
{
	int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	CHECK(fd >= 0);
	CHECK_IS(write(fd, bytes, length), length);
	close(fd);
}

unsigned int count_entries(const char *path)
{
	DIR *directory = opendir(path);
	unsigned int count = 0;

	CHECK(directory);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

unsigned int count_descriptors(void)
{
	return count_entries("/proc/self/fd");
}

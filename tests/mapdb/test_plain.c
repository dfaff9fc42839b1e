/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: whatever the map is, the plain file has the bytes that the guest saw, as a file of its own with the old
 * one's owner, mode, times and attributes; clones are asked for as file systems want
 * them; an error or a stop leaves the bundle and nothing else.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "check.h"
#include "io_fault.h"
#include "mapdb/check.h"
#include "mapdb/plain.h"
#include "scramble.h"

#define BLOCK     4096u
#define SECTOR    512u
#define SIZE_MAX_ (96 * BLOCK)
#define ROUNDS    60

static uint64_t cloned; /* bytes */

/* As the kernel's: aligned to blocks, but for the end of the source. What it shares is written. */
static int strict_clone(const struct io *io, int from_fd, uint64_t from_off, uint64_t length, int to_fd,
                        uint64_t to_off)
{
	static uint8_t bytes[SIZE_MAX_ * 2];
	struct stat from, to;

	CHECK_IS(fstat(from_fd, &from), 0);
	CHECK_IS(fstat(to_fd, &to), 0);
	CHECK_IS(from_off % BLOCK, 0);
	CHECK_IS(to_off % BLOCK, 0);
	CHECK(length > 0);
	CHECK(length % BLOCK == 0 || from_off + length == (uint64_t)from.st_size);
	CHECK(length % BLOCK == 0 || to_off + length == (uint64_t)to.st_size);
	CHECK(from_off + length <= (uint64_t)from.st_size);
	cloned += length;
	for (uint64_t off = 0; off < length; off += BLOCK) {
		uint64_t n = length - off < BLOCK ? length - off : BLOCK;
		off_t data = lseek(from_fd, (off_t)(from_off + off), SEEK_DATA);

		if (data < 0 || (uint64_t)data >= from_off + off + n)
			continue;
		CHECK_IS(io_pread_full(&io_posix, from_fd, bytes, n, from_off + off), 0);
		CHECK_IS(io_pwrite_full(&io_posix, to_fd, bytes, n, to_off + off), 0);
	}
	return 0;
}

static int no_clone(const struct io *io, int from_fd, uint64_t from_off, uint64_t length, int to_fd, uint64_t to_off)
{
	return -EOPNOTSUPP;
}

/* A plain image with holes. */
static void make_image(int dir_fd, uint8_t *bytes, uint64_t size)
{
	write_file(dir_fd, "a.img", "", 0);
	int fd = openat(dir_fd, "a.img", O_RDWR);

	CHECK_IS(ftruncate(fd, (off_t)size), 0);
	memset(bytes, 0, size);
	for (uint64_t off = 0; off < size; off += BLOCK) {
		uint64_t n = size - off < BLOCK ? size - off : BLOCK;

		if (random_below(3) == 0)
			continue;
		random_bytes(bytes + off, n);
		CHECK_IS(pwrite(fd, bytes + off, n, (off_t)off), n);
	}
	CHECK_IS(fchmod(fd, 0640), 0);
	if (geteuid() == 0)
		CHECK_IS(fchown(fd, 1234, 2345), 0);
	fsetxattr(fd, "user.remark", "kept", 4, 0); /* where there are any */
	const struct timespec times[2] = {{.tv_sec = 1000000000, .tv_nsec = 5}, {.tv_sec = 1100000000, .tv_nsec = 7}};
	CHECK_IS(futimens(fd, times), 0);
	close(fd);
}

static void read_guest(int dir_fd, uint8_t *bytes, uint64_t size)
{
	struct image *image;

	CHECK_IS(image_open(&io_posix, dir_fd, "a.img", IMAGE_SHARED, 0, 0, &image), 0);
	CHECK_IS(image->state.size, size);
	CHECK_IS(image_read(image, bytes, size, 0), 0);
	image_close(image);
}

static int to_plain(const struct io *io, int dir_fd, enum plain_method method,
                    bool (*progress)(void *, uint64_t, uint64_t), struct plain_report *report)
{
	const struct plain_options options = {.method = method, .progress = progress};
	struct image *image;
	int rc = image_open(io, dir_fd, "a.img", IMAGE_EXCLUSIVE, 0, 2000, &image);

	if (rc < 0)
		return rc;
	rc = image_to_plain(image, &options, report);
	image_close(image);
	return rc;
}

static void check_file(int dir_fd, const struct stat *before, const uint8_t *bytes, uint64_t size, bool in_place)
{
	static uint8_t found[SIZE_MAX_];
	struct stat status;
	char value[8];
	int fd = openat(dir_fd, "a.img", O_RDONLY | O_NOFOLLOW);

	CHECK(fd >= 0);
	CHECK_IS(fstat(fd, &status), 0);
	CHECK(S_ISREG(status.st_mode));
	CHECK_IS(status.st_size, size);
	CHECK_IS(status.st_mode, before->st_mode);
	CHECK_IS(status.st_uid, before->st_uid);
	CHECK_IS(status.st_gid, before->st_gid);
	CHECK_IS(status.st_ino == before->st_ino, in_place);
	if (!in_place) {
		CHECK_IS(status.st_mtim.tv_sec, 1100000000);
		CHECK_IS(status.st_mtim.tv_nsec, 7);
	}
	ssize_t length = fgetxattr(fd, "user.remark", value, sizeof value);
	CHECK(length == 4 || (length < 0 && errno == EOPNOTSUPP));
	CHECK_IS(pread(fd, found, sizeof found, 0), size);
	CHECK_IS(memcmp(found, bytes, size), 0);
	CHECK_IS(status.st_nlink, 1);
	close(fd);
}

static bool never(void *context, uint64_t done, uint64_t total)
{
	CHECK(done <= total);
	return false;
}

static bool at_once(void *context, uint64_t done, uint64_t total)
{
	return true;
}

static void data_status(int dir_fd, struct stat *status)
{
	CHECK_IS(fstatat(dir_fd, "a.img/data", status, 0), 0);
}

static void random_round(unsigned int round)
{
	static uint8_t bytes[SIZE_MAX_], scrambled[SIZE_MAX_];
	static const uint64_t units[] = {SECTOR, 2 * SECTOR, BLOCK, 3 * BLOCK};
	struct io io = io_posix;
	struct plain_report report;
	struct stat before;
	int dir_fd = scratch_directory();
	uint64_t unit = units[random_below(4)];
	uint64_t shift = random_below(2) ? 63 * SECTOR : 0;
	uint64_t size = shift + 8 * BLOCK + random_below(60) * SECTOR + (random_below(3) ? 0 : random_below(SECTOR));
	enum plain_method method =
	        (enum plain_method[]){PLAIN_AUTO, PLAIN_REFLINK, PLAIN_SETTLE, PLAIN_COPY}[random_below(4)];
	bool clones = method == PLAIN_REFLINK || random_below(2);

	check_context("round %u: size %llu, unit %llu, shift %llu, method %d", round, (unsigned long long)size,
	              (unsigned long long)unit, (unsigned long long)shift, method);
	io.clone = clones ? strict_clone : no_clone;
	cloned = 0;
	make_image(dir_fd, bytes, size);
	scramble(dir_fd, size, unit, shift);
	read_guest(dir_fd, scrambled, size);
	data_status(dir_fd, &before);

	CHECK_IS(to_plain(&io, dir_fd, method, at_once, &report), -ECANCELED);
	CHECK_IS(to_plain(&io, dir_fd, PLAIN_EXCHANGE, never, &report), -EINVAL);
	io.clone = no_clone;
	CHECK_IS(to_plain(&io, dir_fd, PLAIN_REFLINK, never, &report), -EOPNOTSUPP);
	io.clone = clones ? strict_clone : no_clone;
	cloned = 0;
	CHECK_IS(to_plain(&io, dir_fd, method, never, &report), 0);
	check_file(dir_fd, &before, scrambled, size, report.method == PLAIN_SETTLE);
	CHECK_IS(report.method, method == PLAIN_AUTO ? (clones ? PLAIN_REFLINK : PLAIN_SETTLE) : method);
	if (report.method == PLAIN_REFLINK) /* less the probe */
		CHECK_IS(report.bytes_shared, cloned - BLOCK);
	if (unit % BLOCK == 0 && report.method == PLAIN_REFLINK)
		CHECK(report.bytes_copied < size / 2 || size < 16 * BLOCK || unit == BLOCK);
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", dir_fd);
	CHECK_IS(count_entries(path), 3);
	CHECK_IS(to_plain(&io, dir_fd, PLAIN_AUTO, never, &report), 0); /* plain already */
	close(dir_fd);
}

/* The owner could have written to the new file before it got such bits. */
static void no_set_id(void)
{
	static uint8_t bytes[16 * BLOCK];
	struct plain_report report;
	int dir_fd = scratch_directory();
	struct stat status;

	check_context("%s", "an image with set-user-ID bits");
	make_image(dir_fd, bytes, sizeof bytes);
	scramble(dir_fd, sizeof bytes, BLOCK, 0);
	CHECK_IS(fchmodat(dir_fd, "a.img/data", 06755, 0), 0);
	CHECK_IS(to_plain(&io_posix, dir_fd, PLAIN_COPY, never, &report), 0);
	CHECK_IS(fstatat(dir_fd, "a.img", &status, AT_SYMLINK_NOFOLLOW), 0);
	CHECK_IS(status.st_mode, S_IFREG | 0755);
	empty_directory(dir_fd);
}

/* What a kill leaves is removed, and only by one who has the lock. */
static void stale_file(void)
{
	static uint8_t bytes[SIZE_MAX_];
	int dir_fd = scratch_directory();
	unsigned int removed, left;
	struct image *image;

	check_context("stale files");
	make_image(dir_fd, bytes, 16 * BLOCK);
	scramble(dir_fd, 16 * BLOCK, BLOCK, 0);
	CHECK_IS(image_open(&io_posix, dir_fd, "a.img", IMAGE_EXCLUSIVE, 0, 2000, &image), 0);
	write_file(dir_fd, ".a.img.zcfs-plain-abcdef", "half", 4);
	write_file(dir_fd, ".b.img.zcfs-plain-abcdef", "whose?", 6);
	CHECK_IS(image_clean_stale(&io_posix, dir_fd, &removed, &left), 0);
	CHECK_IS(removed, 0);
	CHECK_IS(left, 2);
	image_close(image);
	CHECK_IS(image_clean_stale(&io_posix, dir_fd, &removed, &left), 0);
	CHECK_IS(removed, 1);
	CHECK_IS(left, 1);
	close(dir_fd);
}

/* While the bundle is damaged, the hidden file may be all that is left of the image. */
static void stale_file_of_damaged_bundle(void)
{
	int dir_fd = scratch_directory();
	static uint8_t bytes[16 * BLOCK];
	struct check_report report;
	unsigned int removed, left;
	char state[100];

	check_context("%s", "a file left beside a damaged bundle");
	make_image(dir_fd, bytes, sizeof bytes);
	scramble(dir_fd, sizeof bytes, BLOCK, 0);
	write_file(dir_fd, ".a.img.zcfs-plain-abcdef", "whole", 5);
	int fd = openat(dir_fd, "a.img/map.db", O_RDWR);
	CHECK_IS(pread(fd, state, sizeof state, 0), sizeof state);
	CHECK_IS(pwrite(fd, "damaged", 7, 0), 7);
	CHECK_IS(image_clean_stale(&io_posix, dir_fd, &removed, &left), 0);
	CHECK_IS(removed, 0);
	CHECK_IS(left, 1);
	CHECK_IS(check_image(dir_fd, "a.img", NULL, &report), 0);
	CHECK_IS(check_repair(&io_posix, dir_fd, "a.img", 0, NULL, &report), 0);
	check_report_free(&report);
	CHECK_IS(faccessat(dir_fd, ".a.img.zcfs-plain-abcdef", F_OK, 0), 0);

	CHECK_IS(pwrite(fd, state, sizeof state, 0), sizeof state);
	close(fd);
	CHECK_IS(image_clean_stale(&io_posix, dir_fd, &removed, &left), 0);
	CHECK_IS(removed, 1);
	CHECK_IS(left, 0);
	empty_directory(dir_fd);
}

/* The exchange was made, the old bundle stayed, and the file has become a bundle again since. */
static void stale_bundle_of_another(void)
{
	int dir_fd = scratch_directory();
	static uint8_t bytes[16 * BLOCK];
	unsigned int removed, left;

	check_context("%s", "a bundle left beside a newer one");
	make_image(dir_fd, bytes, sizeof bytes);
	scramble(dir_fd, sizeof bytes, BLOCK, 0);
	CHECK_IS(renameat(dir_fd, "a.img", dir_fd, "old"), 0);
	make_image(dir_fd, bytes, sizeof bytes);
	scramble(dir_fd, sizeof bytes, BLOCK, 0);
	CHECK_IS(renameat(dir_fd, "old", dir_fd, ".a.img.zcfs-plain-abcdef"), 0);
	CHECK_IS(image_clean_stale(&io_posix, dir_fd, &removed, &left), 0);
	CHECK_IS(removed, 1);
	CHECK_IS(left, 0);
	CHECK_IS(faccessat(dir_fd, "a.img/map.db", F_OK, 0), 0);
	empty_directory(dir_fd);
}

int main(void)
{
	random_start();
	for (unsigned int round = 0; round < ROUNDS; round++)
		random_round(round);
	no_set_id();
	stale_file();
	stale_file_of_damaged_bundle();
	stale_bundle_of_another();
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: what the parent of a pass receives from its child. Byte 0: 1 a dry run, 2 raw bytes instead of messages. A
 * message is: type; i8, by which its payload is longer than is right; u16 length and u16 offset of bytes that follow,
 * which are put over what an honest child would say.
 *
 * Promise: a pass that fails, or changes nothing, leaves the image as it was. One that changes something permutes units
 * within the volume, changes bytes nowhere else, and can be undone.
 *
 * There is no child: the linker puts the functions below in place of the system's.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "defrag/message.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_extents.h"
#include "tests/mapdb/check.h"

#define DISK_SIZE  (96u * 1024)
#define VOLUME_OFF (8u * 512)
#define VOLUME_END (80u * 1024)
#define STREAM_MAX (1u << 20)
#define LONGER_MAX 128u /* by which a message may be longer than is right */

/* ---- instead of a child ---- */

static struct input said;
static uint8_t stream[STREAM_MAX]; /* what the pipe delivers */
static size_t stream_size, stream_read;
static int stream_fd = -1;

pid_t __wrap_fork(void);
int __wrap_kill(pid_t pid, int number);
pid_t __wrap_waitpid(pid_t pid, int *status, int options);
ssize_t __wrap_read(int fd, void *buffer, size_t size);
int __real_pipe2(int ends[2], int flags);
int __wrap_pipe2(int ends[2], int flags);
ssize_t __real_read(int fd, void *buffer, size_t size);

pid_t __wrap_fork(void)
{
	return 1 << 22; /* there are no such numbers */
}

int __wrap_kill(pid_t pid, int number)
{
	CHECK(pid == 1 << 22 && number);
	return 0;
}

pid_t __wrap_waitpid(pid_t pid, int *status, int options)
{
	(void)status, (void)options;
	return pid;
}

int __wrap_pipe2(int ends[2], int flags)
{
	int r = __real_pipe2(ends, flags);
	stream_fd = ends[0];
	return r;
}

/* The pipe's other end is closed by then, so that poll() finds something to be read. */
ssize_t __wrap_read(int fd, void *buffer, size_t size)
{
	if (fd != stream_fd)
		return __real_read(fd, buffer, size);
	size_t here = size < stream_size - stream_read ? size : stream_size - stream_read;
	memcpy(buffer, stream + stream_read, here);
	stream_read += here;
	return (ssize_t)here;
}

/* ---- messages ---- */

static const size_t sizes[] = {
        [MESSAGE_PROGRESS] = sizeof(struct progress_message),
        [MESSAGE_VOLUME] = sizeof(struct volume_report),
        [MESSAGE_DISK] = sizeof(struct disk_message),
        [MESSAGE_FILE] = sizeof(struct file_message),
        [MESSAGE_FRAGMENTED] = sizeof(struct file_message),
        [MESSAGE_MOVES] = 0,
        [MESSAGE_REDO] = 0,
        [MESSAGE_END] = sizeof(struct end_message),
        [MESSAGE_CLUSTER_MAP] = 0,
        [MESSAGE_FOUND] = sizeof(struct found_message),
};

static void put_template(uint32_t type, uint8_t *payload)
{
	static const struct volume_report volume = {.number = 1,
	                                            .off = VOLUME_OFF,
	                                            .length = VOLUME_END - VOLUME_OFF,
	                                            .scheme = "mbr",
	                                            .file_system = "ntfs",
	                                            .cluster_size = 512};
	if (type == MESSAGE_VOLUME)
		memcpy(payload, &volume, sizeof(volume));
}

static void put_message(void)
{
	struct message_header header = {.type = (uint32_t)take(&said, 1)};
	int8_t longer = (int8_t)take(&said, 1);
	size_t length = take(&said, 2), off = take(&said, 2);
	if (length > input_left(&said))
		length = input_left(&said);
	size_t size = header.type < sizeof(sizes) / sizeof(*sizes) ? sizes[header.type] : 0;
	if (!size) /* as long as what is put there */
		size = off % 4096 + length;
	off = size ? off % size : 0;
	if (length > size - off)
		length = size - off;
	header.size = (uint32_t)(longer < 0 && size < (size_t)-longer ? 0 : size + (size_t)longer);
	if (sizeof(header) + size + 2 * LONGER_MAX > STREAM_MAX - stream_size) {
		said.at = said.end;
		return;
	}
	memcpy(stream + stream_size, &header, sizeof(header));
	uint8_t *payload = stream + stream_size + sizeof(header);
	memset(payload, 0, size + LONGER_MAX);
	put_template(header.type, payload);
	memcpy(payload + off, said.at, length);
	said.at += length;
	stream_size += sizeof(header) + header.size;
}

static void put_stream(bool raw)
{
	stream_size = stream_read = 0;
	if (raw) {
		stream_size = input_left(&said) < STREAM_MAX ? input_left(&said) : STREAM_MAX;
		memcpy(stream, said.at, stream_size);
		return;
	}
	while (input_left(&said))
		put_message();
}

/* ---- the image ---- */

static int dir_fd;
static uint8_t disk[DISK_SIZE], seen[DISK_SIZE];

static void make_image(void)
{
	empty_directory(dir_fd);
	write_file(dir_fd, "disk.img", disk, sizeof(disk));
}

static struct image *open_image(void)
{
	struct image *image;
	CHECK_IS(image_open(&io_posix, dir_fd, "disk.img", IMAGE_EXCLUSIVE, 0, 1000, &image), 0);
	CHECK_IS(image_map_size(image->map), sizeof(disk));
	CHECK_IS(image_read(image, seen, sizeof(seen), 0), 0);
	return image;
}

static void check_map(const struct image_map *map)
{
	judge_map(map);
	for (size_t i = 0; i < image_map_count(map); i++) {
		struct extent extent = image_map_get(map, i);
		CHECK(extent.host_off + extent.length <= sizeof(disk));
		if (extent.host_off != extent.guest_off)
			CHECK(extent.guest_off >= VOLUME_OFF && extent.guest_off + extent.length <= VOLUME_END);
	}
}

static void check_changed(const struct pass_report *report)
{
	static const struct run_record run = {.operation = "undo"};
	bool bounds_known = report->volume_count == 1;
	struct image *image = open_image();
	for (size_t i = 0; i < report->volume_count; i++)
		bounds_known &= report->volumes[i].off >= VOLUME_OFF &&
		                report->volumes[i].off + report->volumes[i].length <= VOLUME_END;
	judge_map(image->map);
	if (bounds_known) {
		check_map(image->map);
		CHECK(!memcmp(seen, disk, VOLUME_OFF));
		CHECK(!memcmp(seen + VOLUME_END, disk + VOLUME_END, sizeof(disk) - VOLUME_END));
	}
	CHECK_IS(image_undo(image, &run), 0);
	image_close(image);
	image = open_image();
	CHECK(!memcmp(seen, disk, sizeof(disk)));
	image_close(image);
	make_image();
}

static void check_unchanged(void)
{
	struct stat status;
	CHECK_IS(fstatat(dir_fd, "disk.img", &status, AT_SYMLINK_NOFOLLOW), 0);
	CHECK(S_ISREG(status.st_mode) && (size_t)status.st_size == sizeof(disk));
	int fd = openat(dir_fd, "disk.img", O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0 && pread(fd, seen, sizeof(seen), 0) == (ssize_t)sizeof(seen));
	close(fd);
	CHECK(!memcmp(seen, disk, sizeof(disk)));
}

static void check_report(const struct pass_report *report)
{
	CHECK(report->result <= VOLUME_FAILED && report->volume_count <= REPORT_VOLUMES_MAX);
	CHECK(memchr(report->cause, 0, sizeof(report->cause)) && memchr(report->remedy, 0, sizeof(report->remedy)));
	for (size_t i = 0; i < report->volume_count; i++) {
		const struct volume_report *v = &report->volumes[i];
		CHECK(memchr(v->cause, 0, sizeof(v->cause)) && memchr(v->label, 0, sizeof(v->label)));
		CHECK(v->result <= VOLUME_FAILED && v->number == i + 1);
		CHECK(v->result != VOLUME_DONE || report->result == VOLUME_DONE);
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	dir_fd = scratch_directory();
	for (size_t i = 0; i < sizeof(disk); i++)
		disk[i] = (uint8_t)(i / 512 * 31 + i % 512 / 7);
	make_image();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pass_report report;
	said = input_of(data, size);
	uint8_t flags = (uint8_t)take(&said, 1);
	struct owner_query owners[2] = {0};
	const struct pass_options options = {
	        .dry_run = flags & 1, .cluster_maps = flags & 4, .owners = owners, .owner_count = 2};
	put_stream(flags & 2);
	struct image *image = open_image();
	int r = guest_pass_run(image, &options, &report);
	image_close(image);
	stream_fd = -1;
	CHECK(r == 0 || r == -ECHILD);
	CHECK(!report.changed || (r == 0 && !options.dry_run));
	check_report(&report);
	if (report.changed)
		check_changed(&report);
	else
		check_unchanged();
	pass_report_free(&report);
	for (size_t i = 0; i < 2; i++)
		free(owners[i].path);
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: partition tables. Byte 0: 1 puts the checksums of a GPT right. u16 and u8: the disk's size in units of 512
 * bytes, and how often that is doubled. Then patches to a disk of zeros.
 *
 * Promise: what is not refused lies on the disk, and nothing overlaps an NTFS volume; there are no more than there is
 * room for.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "defrag/volumes.h"
#include "tests/fuzz/memory_image.h"
#include "tests/mapdb/check.h"

#define FIRST_BYTES 65536u /* of the disk, where a GPT may be repaired */
#define DOUBLINGS   38u

static uint8_t first[FIRST_BYTES];
static const struct memory_image *disk;

static uint32_t crc32(const uint8_t *bytes, size_t size)
{
	uint32_t crc = UINT32_MAX;
	for (size_t i = 0; i < size; i++) {
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
	}
	return ~crc;
}

static uint32_t field(const uint8_t *at)
{
	uint32_t value;
	memcpy(&value, at, 4);
	return value;
}

/* The primary table, if it lies where it does on every disk. */
static void put_checksums_right(uint32_t sector_size)
{
	uint8_t *header = first + sector_size;
	uint32_t entries = field(header + 80) * field(header + 84), at = field(header + 72) * sector_size, crc;
	if (memcmp(header, "EFI PART", 8) != 0 || field(header + 12) > sector_size)
		return;
	if (at < FIRST_BYTES && entries <= FIRST_BYTES - at) {
		crc = crc32(first + at, entries);
		memcpy(header + 88, &crc, 4);
	}
	memset(header + 16, 0, 4);
	crc = crc32(header, field(header + 12));
	memcpy(header + 16, &crc, 4);
}

static ssize_t read_disk(const struct io *io, int fd, void *buffer, size_t length, uint64_t off)
{
	ssize_t done = memory_io.pread(io, fd, buffer, length, off);
	if (done > 0 && off < FIRST_BYTES)
		memcpy(buffer, first + off, (size_t)done < FIRST_BYTES - off ? (size_t)done : FIRST_BYTES - off);
	return done;
}

static bool is_ntfs(struct view *view, const struct volume_report *v)
{
	uint8_t name[8];
	return view_read(view, name, sizeof(name), v->off + 3) == 0 && !memcmp(name, "NTFS    ", sizeof(name));
}

static void check_volumes(struct view *view, const struct pass_report *report)
{
	CHECK(report->volume_count <= REPORT_VOLUMES_MAX && memchr(report->cause, 0, sizeof(report->cause)));
	if (report->result != VOLUME_DONE)
		return;
	for (size_t i = 0; i < report->volume_count; i++) {
		const struct volume_report *v = &report->volumes[i];
		CHECK_IS(v->number, i + 1);
		if (v->result != VOLUME_DONE)
			continue;
		CHECK(v->off <= disk->size && v->length <= disk->size - v->off);
		for (size_t k = 0; is_ntfs(view, v) && k < report->volume_count; k++) {
			const struct volume_report *w = &report->volumes[k];
			CHECK(k == i || v->off + v->length <= w->off ||
			      (w->off < v->off && w->length <= v->off - w->off));
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int table_fd = -1;
	static const struct io io = {.pread = read_disk};
	struct input input = input_of(data, size);
	struct pass_report report = {0};
	struct image_map *map;
	if (table_fd < 0)
		table_fd = memfd_create("partition-table", MFD_CLOEXEC);
	bool repair = take(&input, 1) & 1;
	uint64_t units = take(&input, 2);
	struct memory_image memory = {.size = units << take(&input, 1) % DOUBLINGS << 9};
	memory.sparse = input; /* the rest */
	disk = &memory;
	memset(first, 0, sizeof(first));
	patches_apply(input, first, sizeof(first));
	if (repair) {
		put_checksums_right(512);
		put_checksums_right(4096);
	}
	struct view view = memory_image_view(&memory, &map);
	view.io = &io;
	int r = volumes_find(&view, table_fd, &report);
	CHECK_IS(r, 0);
	check_volumes(&view, &report);
	pass_report_free(&report);
	image_map_unref(map);
	return 0;
}

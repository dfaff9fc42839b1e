/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: a boot sector. 8 bytes: the volume's length; then patches to a sound boot sector; its backup is a copy of it,
 * and lies where the patched one says, unless byte 8 is odd.
 *
 * Promise: what is taken for NTFS has a geometry that makes sense and lies inside the volume.
 */
#include <string.h>

#include "defrag/boot.h"
#include "tests/fuzz/memory_image.h"
#include "tests/mapdb/check.h"

#define BOOT_BYTES 8192u

/* 2 MiB in clusters of 1 KiB. */
static void make_sound(uint8_t *sector)
{
	static const uint8_t head[] = {0xeb, 0x52, 0x90, 'N', 'T', 'F', 'S', ' ', ' ', ' ', ' ', 0, 2, 2};
	memset(sector, 0, BOOT_BYTES);
	memcpy(sector, head, sizeof(head));
	sector[21] = 0xf8;
	memcpy(sector + 36, "\x80\0\x80", 3);
	sector[41] = 0x10; /* sectors */
	sector[48] = 4;    /* $MFT */
	sector[57] = 2;    /* $MFTMirr */
	sector[64] = 1;    /* clusters a record */
	sector[68] = 4;    /* clusters an index block */
	memcpy(sector + 510, "\x55\xaa", 2);
}

static uint8_t sector[BOOT_BYTES];
static uint64_t backup_off, length;

static ssize_t read_volume(const struct io *io, int fd, void *buffer, size_t size, uint64_t off)
{
	(void)io, (void)fd;
	for (size_t i = 0; i < size; i++) {
		uint64_t at = off + i;
		bool in_backup = at >= backup_off && at - backup_off < BOOT_BYTES;
		((uint8_t *)buffer)[i] = at < BOOT_BYTES ? sector[at] : in_backup ? sector[at - backup_off] : 0;
	}
	return (ssize_t)size;
}

static void judge(const struct geometry *g, const struct volume_report *report)
{
	CHECK(report->result <= VOLUME_FAILED && memchr(report->cause, 0, sizeof(report->cause)));
	CHECK(report->result == VOLUME_DONE || report->cause[0]);
	if (report->result != VOLUME_DONE)
		return;
	CHECK(g->cluster_size >= 512 && g->cluster_size <= 2u << 20 && !(g->cluster_size & (g->cluster_size - 1)));
	CHECK(g->record_size >= 512 && g->record_size <= 4096 && !(g->record_size & (g->record_size - 1)));
	CHECK(g->sector_size >= 256 && g->cluster_size % g->sector_size == 0);
	CHECK(g->clusters <= length / g->cluster_size && g->mft_lcn < g->clusters && g->mirror_lcn < g->clusters);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct io io = {.pread = read_volume};
	struct input input = input_of(data, size);
	struct volume_report report = {0};
	struct geometry geometry = {0};
	struct image_map *map;
	length = take(&input, 8) & INT64_MAX;
	bool lost = take(&input, 1) & 1;
	make_sound(sector);
	patches_apply(input, sector, BOOT_BYTES);
	uint64_t sectors = 0;
	memcpy(&sectors, sector + 40, 8);
	backup_off = lost ? UINT64_MAX : sectors * (sector[11] | sector[12] << 8);
	CHECK_IS(image_map_identity(length, &map), 0);
	struct view view = {.io = &io, .data_fd = -1, .map = map, .length = length};
	CHECK_IS(boot_read(&view, &geometry, &report), 0);
	judge(&geometry, &report);
	image_map_unref(map);
	return 0;
}

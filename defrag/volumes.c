/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/volumes.h"

#include <blkid/blkid.h>
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "defrag/boot.h"
#include "mapdb/cleanup.h"

#define TABLE_BYTES        (1u << 20) /* at either end of a disk: more than any MBR or GPT takes */
#define MBR_ENTRIES_OFF    446u
#define MBR_ENTRY_SIZE     16u
#define MBR_UNUSED         0x00
#define MBR_NTFS           0x07
#define MBR_NTFS_HIDDEN    0x17
#define MBR_NTFS_RECOVERY  0x27
#define MBR_LDM            0x42
#define MBR_GPT_PROTECTIVE 0xee

static void refuse_disk(struct pass_report *report, enum volume_result result, const char *cause, const char *remedy)
{
	report->result = result;
	snprintf(report->cause, sizeof(report->cause), "%s", cause);
	snprintf(report->remedy, sizeof(report->remedy), "%s", remedy);
}

static void refuse_many(struct pass_report *report)
{
	refuse_disk(report, VOLUME_REFUSED,
	            "more than 256 partitions or tables of logical ones, which is as many as zcfs looks at",
	            "remove some: one of the others might forbid any change");
}

/* ---- a copy for libblkid ---- */

static bool has_signature(const uint8_t *sector)
{
	return sector[510] == 0x55 && sector[511] == 0xaa;
}

struct tables {
	struct view *disk;
	int fd; /* where the copy is */
	uint32_t sector_size;
	struct pass_report *report;
	bool overflow; /* numbers in them that libblkid does not read right */
	bool gpt;      /* with sectors of one of the lengths there is a sound one */
};

static int copy_range(const struct tables *t, uint64_t off, uint64_t length)
{
	cleanup_free uint8_t *buffer = NULL;
	if (off >= t->disk->length)
		return 0;
	if (length > t->disk->length - off)
		length = t->disk->length - off;
	buffer = malloc(length);
	if (!buffer)
		return -ENOMEM;
	int r = view_read(t->disk, buffer, length, off);
	return r < 0 ? r : io_pwrite_full(&io_posix, t->fd, buffer, length, off);
}

static bool is_extended(uint8_t type)
{
	return type == 0x05 || type == 0x0f || type == 0x85;
}

/* libblkid counts in units of 512 bytes, in 32 bits: with longer sectors numbers of an MBR or EBR (at that sector) may
 * be too large. */
static bool overflows(const struct tables *t, const uint8_t *table, uint64_t at)
{
	const uint64_t most = UINT32_MAX / (t->sector_size / 512);
	for (unsigned int i = 0; t->sector_size > 512 && i < 4; i++) {
		const uint8_t *entry = table + MBR_ENTRIES_OFF + i * MBR_ENTRY_SIZE;
		uint32_t start, size;
		memcpy(&start, entry + 8, sizeof(start));
		memcpy(&size, entry + 12, sizeof(size));
		if (size && (at + le32toh(start) > most || le32toh(size) > most))
			return true;
	}
	return false;
}

/* Where the part begins that an entry of an MBR or EBR says is extended, in sectors; 0: it says no such thing. */
static uint64_t extended_start(const uint8_t *sector, unsigned int index)
{
	const uint8_t *entry = sector + MBR_ENTRIES_OFF + index * MBR_ENTRY_SIZE;
	uint32_t start, size;
	memcpy(&start, entry + 8, sizeof(start));
	memcpy(&size, entry + 12, sizeof(size));
	return size && is_extended(entry[4]) ? le32toh(start) : 0;
}

/* In an EBR the first such entry is the link to the next one. */
static uint64_t next_start(const uint8_t *sector)
{
	uint64_t start = 0;
	for (unsigned int i = 0; i < 4 && !start; i++)
		start = extended_start(sector, i);
	return start;
}

/* Only follows a chain of EBR sectors to copy them; what they say is for libblkid to tell, which knows longer chains
 * (of tables without a partition) and rings. */
static int copy_chain(struct tables *t, uint64_t base)
{
	uint8_t sector[512];
	uint64_t at = base;
	int r = 0;
	for (unsigned int links = 0; r == 0 && at; links++) {
		if (at > t->disk->length / t->sector_size ||
		    view_read(t->disk, sector, sizeof(sector), at * t->sector_size) < 0 || !has_signature(sector))
			break;
		if (links > REPORT_VOLUMES_MAX) {
			refuse_many(t->report);
			break;
		}
		t->overflow |= overflows(t, sector, at);
		r = copy_range(t, at * t->sector_size, t->sector_size);
		uint64_t next = next_start(sector);
		at = next ? base + next : 0;
	}
	return r;
}

/* There is one such part on a disk, but nothing keeps an MBR from naming four, and libblkid follows them all. */
static int copy_extended(struct tables *t)
{
	uint8_t sector[512];
	int r = view_read(t->disk, sector, sizeof(sector), 0);
	t->overflow = r == 0 && overflows(t, sector, 0);
	for (unsigned int i = 0; r == 0 && i < 4; i++)
		r = copy_chain(t, extended_start(sector, i));
	return r;
}

static int copy_tables(struct tables *t)
{
	uint64_t length = t->disk->length;
	if (ftruncate(t->fd, 0) < 0 || ftruncate(t->fd, (off_t)length) < 0)
		return -errno;
	int r = copy_range(t, 0, TABLE_BYTES);
	if (r == 0 && length > TABLE_BYTES)
		r = copy_range(t, length - TABLE_BYTES, TABLE_BYTES);
	return r < 0 ? r : copy_extended(t);
}

/* ---- what libblkid finds ---- */

static struct volume_report *add_volume(struct pass_report *report, uint64_t off, uint64_t length, const char *scheme)
{
	if (report->volume_count == REPORT_VOLUMES_MAX)
		return NULL;
	struct volume_report *volume = &report->volumes[report->volume_count++];
	*volume = (struct volume_report){.number = (unsigned int)report->volume_count, .off = off, .length = length};
	snprintf(volume->scheme, sizeof(volume->scheme), "%s", scheme);
	return volume;
}

/* Partitions whose contents are a slice of something larger. */
static bool is_slice(blkid_partition partition, const char *scheme)
{
	static const char *const guids[] = {
	        "af9b60a0-1431-4f62-bc68-3311714a69ad", /* LDM data */
	        "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", /* LDM metadata */
	        "e75caf8f-f680-4cee-afa3-b001e56efc2d", /* Storage Spaces */
	};
	if (!strcmp(scheme, "mbr"))
		return blkid_partition_get_type(partition) == MBR_LDM;
	const char *guid = blkid_partition_get_type_string(partition);
	for (size_t i = 0; guid && i < sizeof(guids) / sizeof(*guids); i++)
		if (!strcasecmp(guid, guids[i]))
			return true;
	return false;
}

static bool looks_like_volume(struct view *disk, uint64_t off)
{
	uint8_t sector[512];
	if (off > disk->length || view_read(disk, sector, sizeof(sector), off) < 0)
		return false;
	return !memcmp(sector + 3, "NTFS    ", 8) || !memcmp(sector + 3, "ReFS\0\0\0\0", 8) ||
	       !memcmp(sector + 3, "-FVE-FS-", 8);
}

/* What begins beyond the end can only be told by its type. In a GPT nothing does: one that was cut short is damaged. */
static bool may_be_volume(struct view *disk, blkid_partition partition, const struct volume_report *volume)
{
	if (volume->off <= disk->length - 512)
		return looks_like_volume(disk, volume->off);
	int type = blkid_partition_get_type(partition);
	return !strcmp(volume->scheme, "mbr") &&
	       (type == MBR_NTFS || type == MBR_NTFS_HIDDEN || type == MBR_NTFS_RECOVERY);
}

static void report_past_end(struct view *disk, blkid_partition partition, struct volume_report *volume)
{
	if (may_be_volume(disk, partition, volume)) {
		report_result(volume, VOLUME_REFUSED, "check whether the image was truncated",
		              "the partition reaches past the end of the image");
		return;
	}
	snprintf(volume->file_system, sizeof(volume->file_system), "unknown");
	report_result(volume, VOLUME_SKIPPED, "", "no NTFS boot sector, and reaches past the end of the image");
}

static bool is_unused(blkid_partition partition, const char *scheme)
{
	return !strcmp(scheme, "mbr") && blkid_partition_get_type(partition) == MBR_UNUSED;
}

static void add_partition(struct view *disk, blkid_partition partition, const char *scheme, struct pass_report *report)
{
	uint64_t off = (uint64_t)blkid_partition_get_start(partition) * 512;
	uint64_t length = (uint64_t)blkid_partition_get_size(partition) * 512;
	if (is_slice(partition, scheme)) {
		refuse_disk(report, VOLUME_REFUSED,
		            "a dynamic disk or a Storage Spaces member: its volumes may be parts of others",
		            "zcfs cannot defragment such disks; convert it to a basic disk in the guest");
		return;
	}
	if (blkid_partition_is_extended(partition) || is_unused(partition, scheme) || !length)
		return;
	struct volume_report *volume = add_volume(report, off, length, scheme);
	if (!volume)
		refuse_many(report);
	else if (off > disk->length || length > disk->length - off)
		report_past_end(disk, partition, volume);
}

/* *list is NULL if there is no table. Without memory libblkid's list is missing, too, or lacks logical partitions; then
 * only errno says so, and of memory for the list itself only as long as there is no device. */
static int probe_partitions(const struct tables *t, blkid_probe probe, blkid_partlist *list)
{
	blkid_probe_enable_partitions(probe, 1);
	errno = 0;
	*list = blkid_probe_get_partitions(probe);
	if (errno == ENOMEM)
		return -ENOMEM;
	if (blkid_probe_set_device(probe, t->fd, 0, 0) < 0 || blkid_probe_set_sectorsize(probe, t->sector_size) < 0)
		return -EIO;
	errno = 0;
	*list = blkid_probe_get_partitions(probe);
	return errno == ENOMEM ? -ENOMEM : 0;
}

static int list_partitions(struct tables *t)
{
	blkid_partlist list = NULL;
	blkid_probe probe = blkid_new_probe();
	if (!probe)
		return -ENOMEM;
	int r = probe_partitions(t, probe, &list);
	blkid_parttable table = r == 0 && list ? blkid_partlist_get_table(list) : NULL;
	const char *type = table ? blkid_parttable_get_type(table) : NULL;
	const char *scheme = !type ? NULL : !strcmp(type, "dos") ? "mbr" : !strcmp(type, "gpt") ? "gpt" : NULL;
	t->gpt |= scheme && !strcmp(scheme, "gpt");
	for (int i = 0; scheme && i < blkid_partlist_numof_partitions(list); i++) {
		blkid_partition partition = blkid_partlist_get_partition(list, i);
		const char *own = blkid_parttable_get_type(blkid_partition_get_table(partition));
		if (own && !strcmp(own, type))
			add_partition(t->disk, partition, scheme, t->report);
	}
	blkid_free_probe(probe);
	return r;
}

static int read_tables(struct tables *t)
{
	t->report->volume_count = 0;
	int r = copy_tables(t);
	return r < 0 ? r : list_partitions(t);
}

/* Of a hybrid MBR it may be any entry. */
static bool has_protective_mbr(struct view *disk)
{
	uint8_t sector[512];
	bool protective = false;
	if (view_read(disk, sector, sizeof(sector), 0) < 0 || !has_signature(sector))
		return false;
	for (unsigned int i = 0; i < 4; i++)
		protective |= sector[MBR_ENTRIES_OFF + i * MBR_ENTRY_SIZE + 4] == MBR_GPT_PROTECTIVE;
	return protective;
}

/* Nothing in an MBR says how long its sectors are: those are right with which a volume begins where a partition does.
 */
static int find_partitions(struct view *disk, int fd, struct pass_report *report)
{
	static const uint32_t sector_sizes[] = {512, 4096};
	struct tables t = {.disk = disk, .fd = fd, .report = report};
	for (size_t i = 0; i < 2; i++) {
		t.sector_size = sector_sizes[i];
		int r = read_tables(&t);
		if (r < 0 || report->cause[0])
			return r;
		for (size_t k = 0; k < report->volume_count; k++) {
			if (!looks_like_volume(disk, report->volumes[k].off))
				continue;
			if (t.overflow && !strcmp(report->volumes[k].scheme, "mbr"))
				refuse_disk(report, VOLUME_REFUSED,
				            "partitions beyond 2 TiB in an MBR for sectors of 4096 bytes, which zcfs "
				            "cannot read",
				            "convert the disk to GPT");
			return 0;
		}
	}
	t.sector_size = 512;
	int r = read_tables(&t);
	if (r == 0 && !t.gpt && has_protective_mbr(disk))
		refuse_disk(report, VOLUME_DAMAGED, "the GPT partition table is damaged",
		            "repair it (for example with gdisk) and try again");
	return r;
}

static bool overlap(const struct volume_report *a, const struct volume_report *b)
{
	return a->off < b->off ? b->off - a->off < a->length : a->off - b->off < b->length;
}

/* What else overlaps is none of ours: an ISO image that boots from disks, too, is a partition around others. */
static bool any_volume_overlaps(struct view *disk, const struct pass_report *report)
{
	for (size_t i = 0; i < report->volume_count; i++) {
		if (!looks_like_volume(disk, report->volumes[i].off))
			continue;
		for (size_t k = 0; k < report->volume_count; k++)
			if (k != i && overlap(&report->volumes[i], &report->volumes[k]))
				return true;
	}
	return false;
}

int volumes_find(struct view *disk, int scratch_fd, struct pass_report *report)
{
	report->volume_count = 0;
	report->volumes = calloc(REPORT_VOLUMES_MAX, sizeof(*report->volumes));
	if (!report->volumes)
		return -ENOMEM;
	if (looks_like_volume(disk, 0)) {
		add_volume(report, 0, disk->length, "none");
		return 0;
	}
	int r = disk->length < 512 ? 0 : find_partitions(disk, scratch_fd, report);
	if (r < 0)
		return r;
	if (report->cause[0])
		return 0;
	if (any_volume_overlaps(disk, report))
		refuse_disk(report, VOLUME_DAMAGED, "partitions overlap", "repair the partition table and try again");
	else if (!report->volume_count)
		add_volume(report, 0, disk->length, "none");
	return 0;
}

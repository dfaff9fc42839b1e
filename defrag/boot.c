/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/boot.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "defrag/record.h"

#define BOOT_READ        8192u /* bytes; the largest sector size is 4096 */
#define MAGIC_READ       32u
#define CLUSTER_SIZE_MAX (2u << 20)
#define RECORD_SIZE_MAX  4096u
#define INDEX_SIZE_MAX   (64u << 10) /* of the blocks of directories that are to come; every directory says its own */

void report_result(struct volume_report *report, enum volume_result result, const char *remedy, const char *cause, ...)
{
	va_list args;
	va_start(args, cause);
	report->result = result;
	snprintf(report->remedy, sizeof(report->remedy), "%s", remedy);
	vsnprintf(report->cause, sizeof(report->cause), cause, args);
	va_end(args);
}

static bool is_power_of_two(uint32_t value)
{
	return value && !(value & (value - 1));
}

static void set_file_system(struct volume_report *report, const char *name)
{
	snprintf(report->file_system, sizeof(report->file_system), "%s", name);
}

/* True if a whole image begins as one of another format does; the report then says which. (A VHD of fixed size is a raw
 * image with something behind it.) */
static bool is_other_format(struct view *view, struct volume_report *report)
{
	static const struct {
		const char *magic, *file_system, *name;
	} formats[] = {
	        {"QFI\xfb", "qcow2", "qcow2"}, {"QED", "qed", "QED"}, /* and its zero byte */
	        {"KDMV", "vmdk", "VMDK"},      {"COWD", "vmdk", "VMDK"},     {"# Disk DescriptorFile", "vmdk", "VMDK"},
	        {"conectix", "vhd", "VHD"},    {"vhdxfile", "vhdx", "VHDX"},
	};
	char bytes[MAGIC_READ] = {0};
	uint64_t length = view->length < sizeof(bytes) ? view->length : sizeof(bytes);
	if (view->off != 0 || view_read(view, bytes, length, 0) < 0)
		return false;
	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		size_t size = strlen(formats[i].magic);
		if (memcmp(bytes, formats[i].magic, size < 4 ? 4 : size) != 0)
			continue;
		set_file_system(report, formats[i].file_system);
		report_result(report, VOLUME_SKIPPED, "make a raw image of it with qemu-img convert -O raw",
		              "a %s image, not a raw one", formats[i].name);
		return true;
	}
	return false;
}

/* BitLocker To Go looks like FAT; its identifier stands where FAT has boot code. */
static const uint8_t bitlocker_guid[16] = {0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a,
                                           0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3, 0xd0, 0x01};

/* True if this is NTFS; otherwise the report says what it is. */
static bool is_ntfs(const uint8_t *sector, struct volume_report *report)
{
	if (!memcmp(sector + 3, "-FVE-FS-", 8) || !memcmp(sector + 0x1a8, bitlocker_guid, 16)) {
		set_file_system(report, "bitlocker");
		report_result(report, VOLUME_REFUSED,
		              "decrypt the volume in the guest (manage-bde -off), or exclude this image",
		              "the volume is encrypted with BitLocker (also when its protection is suspended)");
		return false;
	}
	if (!memcmp(sector + 3, "ReFS\0\0\0\0", 8)) {
		set_file_system(report, "refs");
		report_result(report, VOLUME_SKIPPED, "", "ReFS, not NTFS");
		return false;
	}
	if (memcmp(sector + 3, "NTFS    ", 8) != 0) {
		set_file_system(report, "unknown");
		report_result(report, VOLUME_SKIPPED, "", "no NTFS boot sector");
		return false;
	}
	set_file_system(report, "ntfs");
	return true;
}

/* Sizes above 127 units, and sizes below one, are stored as negative powers of two. */
static uint64_t unit_size(int8_t value, uint32_t unit)
{
	if (value > 0)
		return (uint64_t)value * unit;
	return value < 0 && value >= -31 ? UINT64_C(1) << -value : 0;
}

static bool is_block_size(uint64_t size, uint32_t max)
{
	return size >= 512 && size <= max && is_power_of_two((uint32_t)size);
}

static bool parse(const NTFS_BOOT_SECTOR *boot, struct geometry *g)
{
	g->sector_size = le16_to_cpu(boot->bpb.bytes_per_sector);
	uint32_t per_cluster = boot->bpb.sectors_per_cluster;
	if (per_cluster > 0x80)
		per_cluster = 256 - per_cluster < 16 ? 1u << (256 - per_cluster) : 0;
	if (!is_power_of_two(g->sector_size) || g->sector_size < 256 || g->sector_size > 4096 ||
	    !is_power_of_two(per_cluster) || (uint64_t)g->sector_size * per_cluster > CLUSTER_SIZE_MAX)
		return false;
	g->cluster_size = g->sector_size * per_cluster;
	uint64_t record_size = unit_size(boot->clusters_per_mft_record, g->cluster_size);
	uint64_t index_size = unit_size(boot->clusters_per_index_record, g->cluster_size);
	if (!is_block_size(record_size, RECORD_SIZE_MAX) || !is_block_size(index_size, INDEX_SIZE_MAX))
		return false;
	g->record_size = (uint32_t)record_size;
	g->sectors = (uint64_t)sle64_to_cpu(boot->number_of_sectors);
	g->clusters = g->sectors / per_cluster;
	g->mft_lcn = (uint64_t)sle64_to_cpu(boot->mft_lcn);
	g->mirror_lcn = (uint64_t)sle64_to_cpu(boot->mftmirr_lcn);
	return g->sectors <= INT64_MAX / g->sector_size && g->clusters >= 16 && g->mft_lcn < g->clusters &&
	       g->mirror_lcn < g->clusters;
}

/* Whoever installs a boot loader, or moves the partition, may forget the backup: then both still mean the same volume.
 */
static bool same_volume(const NTFS_BOOT_SECTOR *a, const NTFS_BOOT_SECTOR *b)
{
	return a->oem_id == b->oem_id && a->bpb.bytes_per_sector == b->bpb.bytes_per_sector &&
	       a->bpb.sectors_per_cluster == b->bpb.sectors_per_cluster &&
	       a->number_of_sectors == b->number_of_sectors && a->mft_lcn == b->mft_lcn &&
	       a->mftmirr_lcn == b->mftmirr_lcn && a->clusters_per_mft_record == b->clusters_per_mft_record &&
	       a->clusters_per_index_record == b->clusters_per_index_record &&
	       a->volume_serial_number == b->volume_serial_number;
}

static void check_backup(const uint8_t *sector, const uint8_t *backup, uint32_t size, struct volume_report *report)
{
	if (!memcmp(sector, backup, size))
		return;
	if (same_volume((const NTFS_BOOT_SECTOR *)sector, (const NTFS_BOOT_SECTOR *)backup))
		report_result(report, VOLUME_REFUSED,
		              "if chkdsk finds no errors, copy the volume's first sector over its last, the backup",
		              "the backup boot sector has other boot code or another place on the disk than the boot "
		              "sector");
	else
		report_result(report, VOLUME_REFUSED, REMEDY_CHKDSK,
		              "the backup boot sector is missing or differs from the boot sector (a resize cut short, "
		              "or a wrong partition)");
}

int boot_read(struct view *view, struct geometry *geometry, struct volume_report *report)
{
	uint8_t sector[BOOT_READ], backup[4096];
	report->result = VOLUME_DONE;
	if (is_other_format(view, report))
		return 0;
	if (view->length < sizeof(sector)) {
		set_file_system(report, "unknown");
		report_result(report, VOLUME_SKIPPED, "", "too small for NTFS");
		return 0;
	}
	int r = view_read(view, sector, sizeof(sector), 0);
	if (r < 0)
		return r;
	if (!is_ntfs(sector, report))
		return 0;
	if (!parse((const NTFS_BOOT_SECTOR *)sector, geometry)) {
		*geometry = (struct geometry){0}; /* nothing to look at any further */
		report_result(report, VOLUME_DAMAGED, REMEDY_CHKDSK, "the boot sector's fields make no sense");
		return 0;
	}
	report->cluster_size = geometry->cluster_size;
	report->clusters = geometry->clusters;
	if (geometry->cluster_size < IMAGE_MAP_UNIT) {
		report_result(report, VOLUME_UNSUPPORTED, "zcfs cannot defragment such a volume; leave it alone",
		              "clusters of less than %u bytes", IMAGE_MAP_UNIT);
		return 0;
	}
	if (geometry->clusters > UINT32_MAX) {
		report_result(report, VOLUME_UNSUPPORTED,
		              "check what made it; Windows' own tools format with larger clusters",
		              "more than 2^32 clusters, which Windows does not support");
		return 0;
	}
	uint64_t backup_off = geometry->sectors * geometry->sector_size;
	if (backup_off > view->length || view->length - backup_off < geometry->sector_size) {
		*geometry = (struct geometry){0};
		report_result(
		        report, VOLUME_REFUSED, "check the partition table; finish or undo a resize that was cut short",
		        "the volume (%llu bytes and its backup boot sector) is longer than its partition (%llu bytes)",
		        (unsigned long long)backup_off, (unsigned long long)view->length);
		return 0;
	}
	r = view_read(view, backup, geometry->sector_size, backup_off);
	if (r < 0)
		return r;
	check_backup(sector, backup, geometry->sector_size, report);
	return 0;
}

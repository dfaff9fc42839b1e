/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Damage that somebody would think of who wants to hurt: sizes beyond all bounds, rings, one thing for another.
 */
#include <string.h>

#include "tests/defrag/mutate.h"
#include "tests/mapdb/check.h"

static NTFS_BOOT_SECTOR *boot_sector(void)
{
	return (NTFS_BOOT_SECTOR *)image_bytes;
}

/* Both copies of the boot sector say the same. */
static void copy_boot(void)
{
	uint32_t sector = base->record_option ? 4096 : 512;
	memcpy(image_bytes + base->size / sector * sector - sector, image_bytes, sector);
}

static void boot_of_eternity(void)
{
	boot_sector()->number_of_sectors = cpu_to_sle64(INT64_C(1) << 62);
	copy_boot();
}

static void boot_of_terabytes(void)
{
	boot_sector()->number_of_sectors = cpu_to_sle64(INT64_C(1) << 31);
	copy_boot();
}

static void boot_mft_nowhere(void)
{
	boot_sector()->mft_lcn = cpu_to_sle64(INT64_MIN + 1);
	copy_boot();
}

static void boot_mft_past_end(void)
{
	boot_sector()->mft_lcn = cpu_to_sle64(INT64_C(1) << 54);
	copy_boot();
}

static void boot_mirror_is_mft(void)
{
	boot_sector()->mftmirr_lcn = boot_sector()->mft_lcn;
	copy_boot();
}

static void boot_tiny_records(void)
{
	boot_sector()->clusters_per_mft_record = -31;
	copy_boot();
}

static void boot_huge_index_blocks(void)
{
	boot_sector()->clusters_per_index_record = -23;
	copy_boot();
}

/* A record, to be changed and put back; here record 0. */
static _Alignas(8) uint8_t opened[4096];

static ATTR_RECORD *open_mft(ATTR_TYPES type)
{
	load_record(base, image_bytes, 0, opened);
	CHECK_IS(record_unprotect(opened, base->record_size), 0);
	record_for_each(attr, opened) if (attr->type == type && attr->non_resident && !attr->name_length) return attr;
	return NULL;
}

static void close_mft(void)
{
	record_protect(opened, base->record_size);
	store_record(base, image_bytes, 0, opened, true);
}

static void set_sizes(ATTR_RECORD *attr, uint64_t clusters)
{
	attr->highest_vcn = cpu_to_sle64((int64_t)clusters - 1);
	attr->allocated_size = attr->data_size = attr->initialized_size =
	        cpu_to_sle64((int64_t)(clusters * base->cluster));
}

static void mft_without_runs(void)
{
	ATTR_RECORD *attr = open_mft(AT_DATA);
	memset((uint8_t *)attr + attr_pairs_off(attr), 0, attr_pairs_room(attr));
	set_sizes(attr, 0);
	close_mft();
}

static void mft_of_one_hole(void)
{
	static const struct run hole = {RUN_HOLE, INT64_C(1) << 40};
	ATTR_RECORD *attr = open_mft(AT_DATA);
	size_t used;
	mapping_pairs_encode(&hole, 1, (uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr), &used);
	set_sizes(attr, hole.length);
	close_mft();
}

/* The whole volume, as often as there is room to say so: a cheap way to say that there are many records. */
static void mft_over_and_over(void)
{
	ATTR_RECORD *attr = open_mft(AT_DATA);
	uint64_t lcn = (uint64_t)sle64_to_cpu(boot_sector()->mft_lcn), length = base->size / base->cluster - 8 - lcn,
	         clusters = 0;
	uint8_t *p = (uint8_t *)attr + attr_pairs_off(attr), *end = (uint8_t *)attr + le32_to_cpu(attr->length);
	struct run run = {lcn, length};
	size_t used;
	CHECK_IS(mapping_pairs_encode(&run, 1, p, (size_t)(end - p), &used), 1);
	for (p += used - 1, clusters += length; end - p > 5; p += 5, clusters += length) {
		const uint8_t again[] = {0x13, (uint8_t)length, (uint8_t)(length >> 8), (uint8_t)(length >> 16), 0};
		memcpy(p, again, 5);
	}
	*p = 0;
	set_sizes(attr, clusters);
	close_mft();
}

static void mft_larger_than_its_runs(void)
{
	ATTR_RECORD *attr = open_mft(AT_DATA);
	attr->initialized_size = attr->data_size = cpu_to_sle64(INT64_C(1) << 42);
	close_mft();
}

static ATTR_RECORD *empty_attr(uint32_t off, ATTR_TYPES type, uint32_t length)
{
	ATTR_RECORD *attr = (ATTR_RECORD *)(opened + off);
	memset(attr, 0, length);
	attr->type = type;
	attr->length = cpu_to_le32(length);
	attr->value_offset = cpu_to_le16(24);
	return attr;
}

/* At the very end of it, without the fields of an attribute that has runs. */
static void mft_inside_its_record(void)
{
	open_mft(AT_DATA);
	uint32_t first = le16_to_cpu(mft_record(opened)->attrs_offset), last = base->record_size - 8 - 24;
	empty_attr(first, AT_STANDARD_INFORMATION, last - first);
	empty_attr(last, AT_DATA, 24)->instance = cpu_to_le16(1);
	*(le32 *)(opened + base->record_size - 8) = AT_END;
	mft_record(opened)->bytes_in_use = cpu_to_le32(base->record_size);
	close_mft();
}

static void bitmap_of_the_mft_is_the_mft(void)
{
	ATTR_RECORD *attr = open_mft(AT_BITMAP);
	struct run run = {(uint64_t)sle64_to_cpu(boot_sector()->mft_lcn), 1};
	size_t used;
	if (attr)
		mapping_pairs_encode(&run, 1, (uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr), &used);
	close_mft();
}

/* The first one is in the record, and right in its 4 bytes; the second has the size. */
static void bitmap_of_the_mft_twice(void)
{
	const uint32_t length = 24 + 8;
	ATTR_RECORD *attr = open_mft(AT_BITMAP);
	uint32_t used = le32_to_cpu(mft_record(opened)->bytes_in_use);
	if (!attr || record_free_bytes(opened) < length)
		return;
	uint8_t *at = (uint8_t *)attr;
	memmove(at + length, at, used - (uint32_t)(at - opened));
	empty_attr((uint32_t)(at - opened), AT_BITMAP, length)->instance = mft_record(opened)->next_attr_instance;
	attr->value_length = cpu_to_le32(4);
	memcpy(at + 24, image_bytes + base->mft_bitmap.runs[0].lcn * base->cluster, 4);
	mft_record(opened)->bytes_in_use = cpu_to_le32(used + length);
	mft_record(opened)->next_attr_instance = cpu_to_le16(le16_to_cpu(attr->instance) + 1);
	close_mft();
}

/* A catalog of shadow copies that goes on with itself. */
static void shadows_for_ever(void)
{
	static const uint8_t guid[16] = {0x6b, 0x87, 0x08, 0x38, 0x76, 0xc1, 0x48, 0x4e,
	                                 0xb7, 0xae, 0x04, 0x04, 0x6e, 0x6c, 0xc7, 0x52};
	uint64_t at = 1 << 20;
	memcpy(image_bytes + 0x1e00, guid, sizeof(guid));
	memcpy(image_bytes + 0x1e00 + 48, &at, sizeof(at));
	memset(image_bytes + at, 0, 16384);
	memcpy(image_bytes + at, guid, sizeof(guid));
	memcpy(image_bytes + at + 40, &at, sizeof(at));
}

/* Every directory is its own parent. */
static void directories_in_a_ring(void)
{
	_Alignas(8) uint8_t record[4096];
	for (uint32_t i = 24; i < base->records; i++) {
		load_record(base, image_bytes, i, record);
		if (mft_record(record)->magic != magic_FILE || record_unprotect(record, base->record_size) < 0)
			continue;
		record_for_each(attr, record) if (attr->type == AT_FILE_NAME)((FILE_NAME_ATTR *)attr_value(attr))
		        ->parent_directory = MK_LE_MREF(i, 1);
		record_protect(record, base->record_size);
		store_record(base, image_bytes, i, record, true);
	}
}

/* The first entry of each list outside its record for the second: one attribute is named twice, the other never. */
static void lists_with_twins(void)
{
	_Alignas(8) uint8_t record[4096];
	for (size_t i = 0; i < base->listed_count; i++) {
		load_record(base, base->bytes, base->listed[i], record);
		CHECK_IS(record_unprotect(record, base->record_size), 0);
		record_for_each(attr, record)
		{
			struct run_list runs = {0};
			uint64_t vcns;
			if (attr->type != AT_ATTRIBUTE_LIST || !attr->non_resident || base->listed[i] < 24)
				continue;
			CHECK_IS(mapping_pairs_decode((uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr),
			                              UINT32_MAX, &runs, &vcns),
			         0);
			uint8_t *list = image_bytes + runs.runs[0].lcn * base->cluster;
			uint32_t last = (uint32_t)sle64_to_cpu(attr->data_size) - 32;
			if (last < base->cluster && last >= 64)
				memcpy(list + last, list + last - 32, 32);
			run_list_free(&runs);
		}
	}
}

/* A file of its own among the users', and the runs of its data; opened as record 0 is above. */
static uint32_t open_number;

static ATTR_RECORD *open_file(unsigned int skip, struct run_list *runs)
{
	uint64_t vcns;
	for (open_number = 24; open_number < base->records; open_number++) {
		load_record(base, image_bytes, open_number, opened);
		if (mft_record(opened)->magic != magic_FILE || !(mft_record(opened)->flags & MFT_RECORD_IN_USE))
			continue;
		CHECK_IS(record_unprotect(opened, base->record_size), 0);
		record_for_each(attr, opened)
		{
			if (attr->type != AT_DATA || !attr->non_resident || attr->flags)
				continue;
			runs->count = 0;
			CHECK_IS(mapping_pairs_decode((uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr),
			                              UINT32_MAX, runs, &vcns),
			         0);
			if (runs->count && !skip--)
				return attr;
		}
	}
	CHECK(false);
	return NULL;
}

static void close_file(ATTR_RECORD *attr, struct run_list *runs)
{
	CHECK_IS(record_set_runs(opened, attr, runs->runs, runs->count), 0);
	run_list_free(runs);
	record_protect(opened, base->record_size);
	store_record(base, image_bytes, open_number, opened, true);
}

static void cross_linked_files(void)
{
	struct run_list runs = {0};
	open_file(0, &runs);
	uint64_t lcn = runs.runs[0].lcn;
	ATTR_RECORD *attr = open_file(1, &runs);
	runs.runs[0].lcn = lcn;
	close_file(attr, &runs);
}

static void file_that_crosses_itself(void)
{
	struct run_list runs = {0};
	ATTR_RECORD *attr = open_file(0, &runs);
	for (unsigned int i = 1; runs.count < 2; i++)
		attr = open_file(i, &runs);
	runs.runs[1].lcn = runs.runs[0].lcn;
	close_file(attr, &runs);
}

static void file_of_eternity(void)
{
	struct run_list runs = {0};
	ATTR_RECORD *attr = open_file(0, &runs);
	runs.runs[runs.count - 1] = (struct run){RUN_HOLE, UINT64_C(1) << 60};
	runs.count = 1;
	attr->highest_vcn = cpu_to_sle64((INT64_C(1) << 60) - 1);
	close_file(attr, &runs);
}

/* Every entry says that its attribute is in the record that the list is in. */
static void point_back(uint8_t *list, size_t size, const uint8_t *record)
{
	for (size_t pos = 0; pos + sizeof(ATTR_LIST_ENTRY) <= size;) {
		ATTR_LIST_ENTRY *entry = (ATTR_LIST_ENTRY *)(list + pos);
		entry->mft_reference =
		        MK_LE_MREF(open_number, le16_to_cpu(((const MFT_RECORD *)record)->sequence_number));
		CHECK(entry->length);
		pos += le16_to_cpu(entry->length);
	}
}

static void lists_in_a_ring(void)
{
	for (size_t i = 0; i < base->listed_count; i++) {
		open_number = base->listed[i];
		load_record(base, image_bytes, open_number, opened);
		CHECK_IS(record_unprotect(opened, base->record_size), 0);
		record_for_each(attr, opened)
		{
			struct run_list runs = {0};
			uint64_t vcns;
			if (attr->type != AT_ATTRIBUTE_LIST)
				continue;
			if (!attr->non_resident) {
				point_back(attr_value(attr), le32_to_cpu(attr->value_length), opened);
				continue;
			}
			CHECK_IS(mapping_pairs_decode((uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr),
			                              UINT32_MAX, &runs, &vcns),
			         0);
			uint64_t size = (uint64_t)sle64_to_cpu(attr->data_size),
			         first = runs.runs[0].length * base->cluster;
			point_back(image_bytes + runs.runs[0].lcn * base->cluster, size < first ? size : first, opened);
			run_list_free(&runs);
		}
		record_protect(opened, base->record_size);
		store_record(base, image_bytes, open_number, opened, true);
	}
}

static void none(void)
{
}
const struct attack attacks[] = {
        {"no damage", none, VOLUME_DONE},
        {"a volume of 2^62 sectors", boot_of_eternity, VOLUME_REFUSED},
        {"a volume of a terabyte", boot_of_terabytes, VOLUME_REFUSED},
        {"$MFT below the volume", boot_mft_nowhere, VOLUME_REFUSED},
        {"$MFT above the volume", boot_mft_past_end, VOLUME_REFUSED},
        {"$MFT as its own mirror", boot_mirror_is_mft, VOLUME_REFUSED},
        {"records of 2^31 bytes", boot_tiny_records, VOLUME_REFUSED},
        {"index blocks of 8 MiB", boot_huge_index_blocks, VOLUME_REFUSED},
        {"$MFT without runs", mft_without_runs, VOLUME_REFUSED},
        {"$MFT as one hole", mft_of_one_hole, VOLUME_REFUSED},
        {"$MFT over and over", mft_over_and_over, VOLUME_REFUSED},
        {"$MFT larger than its runs", mft_larger_than_its_runs, VOLUME_REFUSED},
        {"$MFT inside its record", mft_inside_its_record, VOLUME_DAMAGED},
        {"$MFT's bitmap in $MFT", bitmap_of_the_mft_is_the_mft, VOLUME_DONE},
        {"$MFT's bitmap twice", bitmap_of_the_mft_twice, VOLUME_DAMAGED},
        {"shadow copies without an end", shadows_for_ever, VOLUME_REFUSED},
        {"directories in a ring", directories_in_a_ring, VOLUME_DONE},
        {"files with clusters in common", cross_linked_files, VOLUME_DAMAGED},
        {"a file with clusters twice", file_that_crosses_itself, VOLUME_DAMAGED},
        {"a file of 2^60 clusters", file_of_eternity, VOLUME_DAMAGED},
        {"attribute lists that lead back", lists_in_a_ring, VOLUME_DAMAGED},
        {"attribute lists with twins", lists_with_twins, VOLUME_DONE},
};
const size_t attack_count = sizeof(attacks) / sizeof(*attacks);

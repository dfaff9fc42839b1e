/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/scan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "defrag/mft.h"
#include "defrag/ownership.h"
#include "defrag/streams.h"
#include "mapdb/cleanup.h"

#define CHUNK_SIZE (1u << 20) /* bytes of $MFT read at once; fits the processor's cache */

void scan_free(struct scan *s)
{
	if (!s)
		return;
	run_list_free(&s->mft_runs);
	run_index_free(&s->mft);
	run_list_free(&s->runs);
	run_list_free(&s->free);
	run_list_free(&s->lost);
	name_table_free(&s->names);
	free(s->kind);
	free(s->attr_counts);
	free(s->sequence);
	free(s->fingerprint);
	free(s->attrs);
	free(s->mft_bitmap);
	free(s);
}

int scan_read_record(const struct scan *s, uint64_t number, uint8_t *record)
{
	uint32_t size = s->geometry.record_size;
	if (number >= s->record_count)
		return -EUCLEAN;
	int r = view_read_runs(s->view, &s->mft, s->geometry.cluster_size, record, size, number * size);
	if (r == 0)
		r = record_unprotect(record, size);
	return r < 0 ? r : record_check(record, size);
}

/* ---- attribute lists ---- */

static int read_list_bytes(struct view *view, const struct geometry *g, ATTR_RECORD *attr, uint8_t *bytes,
                           uint64_t size)
{
	if (!attr->non_resident) {
		memcpy(bytes, attr_value(attr), size);
		return 0;
	}
	struct run_list runs = {0};
	struct run_index index = {0};
	uint64_t vcns;
	if (attr->lowest_vcn || sle64_to_cpu(attr->initialized_size) < sle64_to_cpu(attr->data_size))
		return -EUCLEAN;
	int r = mapping_pairs_decode((uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr), g->clusters, &runs,
	                             &vcns);
	if (r == 0)
		r = run_index_build(&index, runs.runs, runs.count);
	if (r == 0)
		r = view_read_runs(view, &index, g->cluster_size, bytes, size, 0);
	run_index_free(&index);
	run_list_free(&runs);
	return r == -ERANGE ? -EUCLEAN : r;
}

int scan_read_list(struct view *view, const struct geometry *g, uint8_t *record, ATTR_RECORD **attr,
                   struct attr_list *list)
{
	ATTR_RECORD *found = NULL;
	record_for_each(a, record) if (a->type == AT_ATTRIBUTE_LIST) found = a;
	if (!found)
		return -EUCLEAN;
	uint64_t size =
	        found->non_resident ? (uint64_t)sle64_to_cpu(found->data_size) : le32_to_cpu(found->value_length);
	if (!size || size > ATTR_LIST_SIZE_MAX)
		return -EUCLEAN;
	uint8_t *bytes = malloc(size);
	if (!bytes)
		return -ENOMEM;
	int r = read_list_bytes(view, g, found, bytes, size);
	if (r < 0) {
		free(bytes);
		return r;
	}
	*attr = found;
	return attr_list_parse(bytes, size, list);
}

ATTR_RECORD *record_find_entry(uint8_t *record, const struct list_entry *entry)
{
	record_for_each(attr, record)
	{
		uint64_t lowest = attr->non_resident ? (uint64_t)sle64_to_cpu(attr->lowest_vcn) : 0;
		if (le32_to_cpu(attr->type) == entry->type && le16_to_cpu(attr->instance) == entry->instance &&
		    lowest == entry->lowest_vcn &&
		    attr_name_hash(attr_name(attr), attr->name_length) == entry->name_hash)
			return attr;
	}
	return NULL;
}

ATTR_RECORD *record_find_attr(uint8_t *record, const struct attr *attr)
{
	record_for_each(found, record)
	{
		if (le32_to_cpu(found->type) == attr->type && le16_to_cpu(found->instance) == attr->instance &&
		    found->non_resident)
			return found;
	}
	return NULL;
}

/* ---- one record ---- */

static bool is_one_of(const char *text, const char *const *names, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (!strcasecmp(text, names[i]))
			return true;
	return false;
}

static bool is_hiberfil(const FILE_NAME_ATTR *name)
{
	char text[64];
	if (MREF_LE(name->parent_directory) != ROOT_RECORD)
		return false;
	name_to_utf8((const uint8_t *)name + offsetof(FILE_NAME_ATTR, file_name), name->file_name_length, text,
	             sizeof(text));
	return !strcasecmp(text, "hiberfil.sys");
}

/* A file in the root directory that a boot loader is known to look for, or that is marked like one (hidden and system),
 * as block-list loaders' files are. What Windows itself opens by path does not count. */
static bool is_boot_file(const FILE_NAME_ATTR *name, uint32_t file_attributes)
{
	static const char *const known[] = {"bootmgr",      "ntldr",        "ntdetect.com", "boot.ini",
	                                    "bootsect.dos", "bootsect.bak", "bootfont.bin", "grldr",
	                                    "wubildr",      "io.sys",       "msdos.sys"};
	static const char *const by_path[] = {"pagefile.sys", "swapfile.sys", "hiberfil.sys"};
	char text[64];
	uint32_t hidden_system = le32_to_cpu(FILE_ATTR_HIDDEN | FILE_ATTR_SYSTEM);
	if (MREF_LE(name->parent_directory) != ROOT_RECORD)
		return false;
	name_to_utf8((const uint8_t *)name + offsetof(FILE_NAME_ATTR, file_name), name->file_name_length, text,
	             sizeof(text));
	if (is_one_of(text, known, sizeof(known) / sizeof(*known)))
		return true;
	return (file_attributes & hidden_system) == hidden_system &&
	       !is_one_of(text, by_path, sizeof(by_path) / sizeof(*by_path));
}

/* \Boot\BCD; where else there may be one is of no matter. */
static bool is_boot_data(const FILE_NAME_ATTR *name)
{
	char text[16];
	name_to_utf8((const uint8_t *)name + offsetof(FILE_NAME_ATTR, file_name), name->file_name_length, text,
	             sizeof(text));
	return !strcasecmp(text, "bcd");
}

/* The catalog is named by a GUID, the stores {GUID of the snapshot}{that one}. libyal's "Volume Shadow Snapshot (VSS)
 * format" has both. */
static bool is_shadow_file(const FILE_NAME_ATTR *name)
{
	static const char guid[] = "{3808876b-c176-4e48-b7ae-04046e6cc752}";
	static const size_t length = sizeof(guid) - 1;
	char text[256];
	size_t size = name_to_utf8((const uint8_t *)name + offsetof(FILE_NAME_ATTR, file_name), name->file_name_length,
	                           text, sizeof(text));
	return size >= length && text[0] == '{' && !strcasecmp(text + size - length, guid);
}

/* What of an attribute a pass must not change: everything but its runs, its place and its instance number. */
static uint64_t attr_fingerprint(uint64_t number, ATTR_RECORD *attr)
{
	struct {
		uint64_t name, a, b, c, d;
		uint32_t type;
		uint16_t flags;
		uint8_t non_resident, name_length;
	} canon = {
	        .name = attr_name_hash(attr_name(attr), attr->name_length),
	        .type = attr->type,
	        .flags = attr->flags,
	        .non_resident = attr->non_resident,
	        .name_length = attr->name_length,
	};
	if (attr->type == AT_ATTRIBUTE_LIST || (attr->non_resident && attr->lowest_vcn))
		return 0;
	if (attr->non_resident) {
		canon.a = (uint64_t)attr->allocated_size;
		canon.b = (uint64_t)attr->data_size;
		canon.c = (uint64_t)attr->initialized_size;
		canon.d = attr->compression_unit;
		if (attr_pairs_off(attr) >= offsetof(ATTR_RECORD, compressed_size) + sizeof(attr->compressed_size))
			canon.d ^= (uint64_t)attr->compressed_size << 8;
	} else {
		uint32_t length = le32_to_cpu(attr->value_length);
		canon.a = length;
		canon.b = attr->resident_flags;
		if (number != FILE_MFT || attr->type != AT_BITMAP ||
		    attr->name_length) /* freeing extension records changes $MFT's bitmap */
			canon.c = XXH3_64bits(attr_value(attr), length);
	}
	return XXH3_64bits(&canon, sizeof(canon));
}

static int add_attr(struct scan *s, uint64_t number, uint64_t base, ATTR_RECORD *attr)
{
	if (s->attr_count == s->attr_capacity) {
		size_t capacity = s->attr_capacity + s->attr_capacity / 2 + 1024;
		struct attr *grown = reallocarray(s->attrs, capacity, sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		s->attrs = grown;
		s->attr_capacity = capacity;
	}
	uint64_t lowest = (uint64_t)sle64_to_cpu(attr->lowest_vcn), vcns;
	size_t first_run = s->runs.count;
	int r = mapping_pairs_decode((uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr),
	                             s->geometry.clusters, &s->runs, &vcns);
	if (r < 0)
		return r;
	if (lowest + vcns != (uint64_t)sle64_to_cpu(attr->highest_vcn) + 1 || s->runs.count - first_run > UINT32_MAX)
		return -EUCLEAN;
	struct attr *added = &s->attrs[s->attr_count++];
	*added = (struct attr){
	        .record = (uint32_t)number,
	        .base = (uint32_t)base,
	        .type = le32_to_cpu(attr->type),
	        .run_count = (uint32_t)(s->runs.count - first_run),
	        .first_run = first_run,
	        .name_hash = attr_name_hash(attr_name(attr), attr->name_length),
	        .lowest_vcn = lowest,
	        .instance = le16_to_cpu(attr->instance),
	        .flags = le16_to_cpu(attr->flags),
	        .room = (uint16_t)attr_pairs_room(attr),
	        .compression_unit = attr->compression_unit,
	};
	if (lowest)
		return 0;
	int64_t allocated = sle64_to_cpu(attr->allocated_size), data = sle64_to_cpu(attr->data_size);
	int64_t initialized = sle64_to_cpu(attr->initialized_size);
	if (base == FILE_BadClus) /* as long as the volume, give or take; what is allocated are its holes, too */
		return 0;
	if (initialized < 0 || initialized > data || data > allocated || allocated % s->geometry.cluster_size)
		return -EUCLEAN;
	added->allocated_vcns = (uint64_t)allocated / s->geometry.cluster_size;
	return 0;
}

/* Divides the record's free bytes among its non-resident attributes, so that all of them may grow at once. */
static void share_free_bytes(struct scan *s, const uint8_t *record, size_t first)
{
	size_t count = s->attr_count - first;
	uint32_t share = count ? (record_free_bytes(record) / (uint32_t)count) & ~7u : 0;
	for (size_t i = first; i < s->attr_count; i++)
		s->attrs[i].room = (uint16_t)(s->attrs[i].room + share);
}

/* An attribute is found again by its type and instance number: among those that may move, no two in a record share
 * both. */
static bool has_twins(const struct scan *s, size_t first)
{
	for (size_t i = first; i < s->attr_count; i++)
		for (size_t k = i + 1; k < s->attr_count; k++)
			if (s->attrs[i].type == s->attrs[k].type && s->attrs[i].instance == s->attrs[k].instance)
				return true;
	return false;
}

static bool begins_stream(const ATTR_RECORD *attr)
{
	return !attr->non_resident || !attr->lowest_vcn;
}

/* Attributes of one type are neighbours. */
static bool begins_again(uint8_t *record, ATTR_RECORD *attr)
{
	for (ATTR_RECORD *next = record_next(record, attr); next && next->type == attr->type;
	     next = record_next(record, next))
		if (begins_stream(next) && next->name_length == attr->name_length &&
		    !memcmp(attr_name(next), attr_name(attr), 2u * attr->name_length))
			return true;
	return false;
}

/* Of all that begins at VCN 0, or is resident, only names may be there more than once. */
static bool has_attr_twice(uint8_t *record)
{
	record_for_each(attr, record) if (attr->type != AT_FILE_NAME && begins_stream(attr) &&
	                                  begins_again(record, attr)) return true;
	return false;
}

/* Bytes of a non-resident attribute that hold something; behind them its clusters may hold anything. */
static uint64_t bytes_that_count(const ATTR_RECORD *attr)
{
	int64_t data = sle64_to_cpu(attr->data_size), initialized = sle64_to_cpu(attr->initialized_size);
	return (uint64_t)(initialized < data ? initialized : data);
}

/* $MFT's bitmap, of which there is one, whatever its records are. */
static int note_mft_bitmap(struct scan *s, uint64_t number, ATTR_RECORD *attr)
{
	if (s->mft_bitmap_seen || (!attr->non_resident && number != FILE_MFT))
		return -EUCLEAN;
	s->mft_bitmap_seen = true;
	if (attr->non_resident) {
		s->mft_bitmap_size = bytes_that_count(attr);
		return 0;
	}
	s->mft_bitmap_size = le32_to_cpu(attr->value_length);
	s->mft_bitmap_resident = true;
	s->mft_bitmap = malloc(s->mft_bitmap_size + 1);
	if (!s->mft_bitmap)
		return -ENOMEM;
	memcpy(s->mft_bitmap, attr_value(attr), s->mft_bitmap_size);
	return 0;
}

static int note_special(struct scan *s, uint64_t number, uint64_t base, ATTR_RECORD *attr)
{
	if (attr->name_length || !begins_stream(attr))
		return 0;
	if (base == FILE_MFT && attr->type == AT_BITMAP)
		return note_mft_bitmap(s, number, attr);
	if (base == FILE_Bitmap && attr->type == AT_DATA && attr->non_resident)
		s->bitmap_size = bytes_that_count(attr);
	return 0;
}

/* What every reader takes to be in the record, and what is of no use there. */
static bool is_where_it_may_be(const ATTR_RECORD *attr)
{
	switch (le32_to_cpu(attr->type)) {
	case 0x10: /* $STANDARD_INFORMATION */
	case 0x30: /* $FILE_NAME */
	case 0x60: /* $VOLUME_NAME */
	case 0x70: /* $VOLUME_INFORMATION */
	case 0x90: /* $INDEX_ROOT */
		return !attr->non_resident;
	case 0xa0: /* $INDEX_ALLOCATION */
		return attr->non_resident;
	default: /* Windows' own types, and those that a volume defines for itself, are multiples of 16 */
		return le32_to_cpu(attr->type) % 0x10 == 0;
	}
}

static int scan_attributes(struct scan *s, uint64_t number, uint64_t base, uint8_t *record)
{
	size_t first = s->attr_count;
	uint64_t fingerprint = 0;
	unsigned int count = 0;
	record_for_each(attr, record)
	{
		int r = note_special(s, number, base, attr);
		if (!is_where_it_may_be(attr))
			r = -EUCLEAN;
		if (r == 0 && attr->non_resident)
			r = add_attr(s, number, base, attr);
		if (r < 0)
			return r;
		if (attr->type == AT_ATTRIBUTE_LIST)
			s->kind[number] |= RECORD_HAS_LIST;
		fingerprint += attr_fingerprint(number, attr);
		count++;
	}
	if (has_twins(s, first))
		return -EUCLEAN;
	share_free_bytes(s, record, first);
	s->attr_counts[number] = (uint8_t)count;
	s->fingerprint[base] += fingerprint;
	return 0;
}

/* Those in $FILE_NAME are as old as the name. */
static uint32_t file_attributes(uint8_t *record)
{
	const size_t end = offsetof(STANDARD_INFORMATION, file_attributes) + sizeof(le32);
	record_for_each(attr, record)
	{
		const STANDARD_INFORMATION *information = (const STANDARD_INFORMATION *)attr_value(attr);
		if (attr->type == AT_STANDARD_INFORMATION && !attr->non_resident &&
		    le32_to_cpu(attr->value_length) >= end)
			return le32_to_cpu(information->file_attributes);
	}
	return 0;
}

/* Any of a file's names may be the one that somebody knows it by, and may be in any of its records. */
static void note_name(struct scan *s, uint64_t base, const FILE_NAME_ATTR *name, uint32_t attributes)
{
	if (base >= RESERVED_RECORDS && is_boot_file(name, attributes))
		s->kind[base] |= RECORD_BOOT_FILE;
	if (is_shadow_file(name))
		s->kind[base] |= RECORD_SHADOWS;
	if (name->file_name_length == 3 && is_boot_data(name))
		s->kind[base] |= RECORD_BOOT_DATA;
}

/* Whether an extension record is a directory's may not be known yet. */
static int note_names(struct scan *s, uint64_t number, uint64_t base, uint8_t *record)
{
	const FILE_NAME_ATTR *shown = record_file_name(record);
	uint32_t attributes = number == base ? file_attributes(record) : 0;
	bool directory = s->kind[base] & RECORD_DIRECTORY;
	if (!shown)
		return 0;
	record_for_each(attr, record)
	{
		const FILE_NAME_ATTR *name = attr_file_name(attr);
		if (name && is_hiberfil(name))
			s->hiberfil = s->hiberfil && s->hiberfil != base ? HIBERFIL_SEVERAL : base;
		if (name && !directory)
			note_name(s, base, name, number == base ? attributes : le32_to_cpu(name->file_attributes));
	}
	return directory || number != base ? name_table_add(&s->names, (uint32_t)base, shown) : 0;
}

/* Since NTFS 3.1 a record says which one it is, where Windows 2000 has the update sequence. */
static bool says_its_number(const MFT_RECORD *m, uint64_t number)
{
	return le16_to_cpu(m->usa_ofs) < sizeof(*m) || le32_to_cpu(m->mft_record_number) == number;
}

/* raw is one record as it is on disk; it is unprotected in place. */
static int scan_record(struct scan *s, uint64_t number, uint8_t *raw, struct volume_report *report)
{
	const MFT_RECORD *m = mft_record(raw);
	if (m->magic != magic_FILE)
		return 0; /* the comparison with $MFT's bitmap finds it if it should have been one */
	s->sequence[number] = le16_to_cpu(m->sequence_number);
	if (!(m->flags & MFT_RECORD_IN_USE))
		return 0;
	if (record_unprotect(raw, s->geometry.record_size) < 0)
		return report_damage(report, "MFT record %llu has bad fixups (a torn write)",
		                     (unsigned long long)number);
	if (record_check(raw, s->geometry.record_size) < 0)
		return report_damage(report, "MFT record %llu is damaged", (unsigned long long)number);
	if (!m->sequence_number)
		return report_damage(report, "MFT record %llu has no sequence number", (unsigned long long)number);
	if (!says_its_number(m, number))
		return report_damage(report, "MFT record %llu says that it is record %u", (unsigned long long)number,
		                     le32_to_cpu(m->mft_record_number));
	uint64_t reference = le64_to_cpu(m->base_mft_record), base = reference ? MREF(reference) : number;
	if (base >= s->record_count || (reference && base == number))
		return report_damage(report, "extension record %llu belongs to no file", (unsigned long long)number);
	s->kind[number] |= RECORD_USED | (reference ? RECORD_EXTENSION : 0);
	s->records_used++;
	if (!reference) {
		if (m->flags & MFT_RECORD_IS_DIRECTORY)
			s->kind[number] =
			        (s->kind[number] & (uint8_t) ~(RECORD_BOOT_FILE | RECORD_SHADOWS)) | RECORD_DIRECTORY;
		struct {
			uint64_t lsn;
			uint16_t sequence, links, flags, zero;
		} canon = {m->lsn, m->sequence_number, m->link_count, m->flags, 0};
		s->fingerprint[number] += XXH3_64bits(&canon, sizeof(canon));
		s->files++;
	}
	if (has_attr_twice(raw))
		return report_damage(report, "MFT record %llu has an attribute twice", (unsigned long long)number);
	int r = note_names(s, number, base, raw);
	if (r == 0)
		r = scan_attributes(s, number, base, raw);
	if (r == -EUCLEAN)
		return report_damage(report,
		                     "MFT record %llu has an attribute whose run list, sizes or type are damaged",
		                     (unsigned long long)number);
	return r;
}

static int scan_records(struct scan *s, struct volume_report *report, scan_progress progress, void *context)
{
	uint32_t size = s->geometry.record_size;
	cleanup_free uint8_t *chunk = malloc(CHUNK_SIZE);
	if (!chunk)
		return -ENOMEM;
	for (uint64_t number = 0; number < s->record_count;) {
		uint64_t count = CHUNK_SIZE / size;
		if (count > s->record_count - number)
			count = s->record_count - number;
		int r = view_read_runs(s->view, &s->mft, s->geometry.cluster_size, chunk, count * size, number * size);
		if (r < 0)
			return r;
		for (uint64_t i = 0; i < count; i++, number++) {
			r = scan_record(s, number, chunk + i * size, report);
			if (r)
				return r;
		}
		if (progress && progress(context, number, s->record_count))
			return -ECANCELED;
	}
	return 0;
}

int scan_volume(struct view *view, const struct geometry *geometry, struct volume_report *report,
                scan_progress progress, void *context, struct scan **out)
{
	struct scan *s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->view = view;
	s->geometry = *geometry;
	int r = mft_open(s, report);
	if (r == 0) {
		s->kind = calloc(s->record_count, 1);
		s->attr_counts = calloc(s->record_count, 1);
		s->sequence = calloc(s->record_count, sizeof(*s->sequence));
		s->fingerprint = calloc(s->record_count, sizeof(*s->fingerprint));
		if (!s->kind || !s->attr_counts || !s->sequence || !s->fingerprint)
			r = -ENOMEM;
	}
	if (r == 0)
		r = scan_records(s, report, progress, context);
	name_table_sort(&s->names);
	if (r == 0)
		r = streams_sort(s);
	if (r == 0)
		r = streams_check(s, report);
	if (r == 0)
		r = ownership_check_records(s, report);
	if (r == 0)
		r = ownership_check_clusters(s, report);
	/* Last: once no two attributes share clusters, the lists cannot be longer than the volume. */
	if (r == 0)
		r = streams_check_lists(s, report);
	if (r) {
		scan_free(s);
		return r;
	}
	*out = s;
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Random damage, behind the fixups so that it gets past them: to fields of records and attributes, attribute lists, the
 * boot sector, bitmaps.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/defrag/mutate.h"
#include "tests/mapdb/check.h"

uint8_t image_bytes[IMAGE_SIZE_MAX];
const struct base *base;

static uint64_t telling_number(void)
{
	static const uint64_t numbers[] = {0,
	                                   1,
	                                   2,
	                                   7,
	                                   8,
	                                   0x7f,
	                                   0x80,
	                                   0xff,
	                                   0x100,
	                                   0x1ff,
	                                   0x200,
	                                   0x7fff,
	                                   0x8000,
	                                   0xffff,
	                                   0x10000,
	                                   INT32_MAX,
	                                   UINT32_MAX,
	                                   UINT64_C(1) << 32,
	                                   UINT64_C(1) << 40,
	                                   INT64_MAX,
	                                   UINT64_C(1) << 63,
	                                   UINT64_MAX};
	return random_below(4) ? numbers[random_below(sizeof(numbers) / sizeof(*numbers))] : random_u64();
}

/* Another number in a field of that many bytes: close by, telling, or any. */
static void damage_field(uint8_t *field, unsigned int size)
{
	uint64_t value = 0;
	memcpy(&value, field, size);
	switch (random_below(4)) {
	case 0:
		value += random_below(2) ? 1 : UINT64_MAX;
		break;
	case 1:
		value += (random_below(2) ? 8 : UINT64_MAX - 7) * (1 + random_below(4));
		break;
	case 2:
		value ^= UINT64_C(1) << random_below(8 * size);
		break;
	default:
		value = telling_number();
	}
	memcpy(field, &value, size);
}

struct field {
	uint8_t off, size;
};

static void damage_one_of(uint8_t *at, const struct field *fields, size_t count)
{
	const struct field *field = &fields[random_below(count)];
	damage_field(at + field->off, field->size);
}
#define DAMAGE_ONE_OF(at, fields) damage_one_of((at), (fields), sizeof(fields) / sizeof(*(fields)))

/* Offsets are those of layout.h: header of a record, of an attribute, and of the two kinds of it. */
static const struct field record_fields[] = {{4, 2},  {6, 2},  {8, 8},  {16, 2}, {18, 2}, {20, 2}, {22, 2}, {24, 4},
                                             {28, 4}, {32, 8}, {32, 2}, {38, 2}, {40, 2}, {44, 4}, {0, 4}};
static const struct field attr_fields[] = {{0, 4}, {4, 4}, {8, 1}, {9, 1}, {10, 2}, {12, 2}, {14, 2}};
static const struct field resident_fields[] = {{16, 4}, {20, 2}, {22, 1}};
static const struct field nonresident_fields[] = {{16, 8}, {24, 8}, {32, 2}, {34, 1},
                                                  {40, 8}, {48, 8}, {56, 8}, {64, 8}};
static const struct field list_fields[] = {{0, 4}, {4, 2}, {6, 1}, {7, 1}, {8, 8}, {16, 4}, {16, 8}, {22, 2}, {24, 2}};
static const struct field boot_fields[] = {{3, 8},  {11, 2}, {13, 1}, {21, 1}, {40, 8},
                                           {48, 8}, {56, 8}, {64, 1}, {68, 1}, {72, 8}};

static uint32_t pick_record(void)
{
	switch (random_below(4)) {
	case 0:
		return (uint32_t)random_below(12);
	case 1:
		return base->listed_count ? base->listed[random_below(base->listed_count)] : 0;
	default:
		return (uint32_t)random_below(base->records);
	}
}

/* Any of the attributes, or NULL. Trusts nothing, since the record may be damaged already. */
static ATTR_RECORD *pick_attr(uint8_t *record, uint32_t *room)
{
	uint32_t off = le16_to_cpu(mft_record(record)->attrs_offset);
	ATTR_RECORD *picked = NULL;
	for (unsigned int count = 1; off % 8 == 0 && off + 80 < base->record_size; count++) {
		ATTR_RECORD *attr = (ATTR_RECORD *)(record + off);
		uint32_t length = le32_to_cpu(attr->length);
		if (attr->type == AT_END || length < 24 || length > base->record_size - off)
			break;
		if (random_below(count) == 0) {
			picked = attr;
			*room = length;
		}
		off += length;
	}
	return picked;
}

static void damage_list_entries(uint8_t *entries, uint32_t size)
{
	uint32_t count = size / 32;
	uint8_t *entry = entries + 32ul * random_below(count ? count : 1);
	if (count > 1 && random_below(4) == 0)
		memmove(entries + 32ul * random_below(count), entry, 32); /* one twice, one never */
	else if (size >= 32)
		DAMAGE_ONE_OF(entry, list_fields);
}

static void damage_value(ATTR_RECORD *attr, uint32_t room)
{
	uint32_t off = attr->non_resident ? le16_to_cpu(attr->mapping_pairs_offset) : le16_to_cpu(attr->value_offset);
	if (off >= room)
		return;
	uint8_t *value = (uint8_t *)attr + off;
	uint32_t size = room - off;
	if (attr->type == AT_ATTRIBUTE_LIST && !attr->non_resident)
		damage_list_entries(value, size);
	else if (attr->non_resident && random_below(3) == 0)
		value[0] = (uint8_t)(random_below(5) | random_below(5) << 4);
	else
		damage_field(value + random_below(size > 8 ? (random_below(2) ? 8 : size - 7) : 1),
		             size >= 8 ? 1 + (unsigned int)random_below(4) : 1);
}

static void damage_record_bytes(uint8_t *record)
{
	uint32_t room = 0;
	ATTR_RECORD *attr = pick_attr(record, &room);
	uint8_t *at = (uint8_t *)attr;
	switch (attr ? random_below(8) : 7) {
	case 0:
		DAMAGE_ONE_OF(at, attr_fields);
		break;
	case 1:
	case 2:
		if (attr->non_resident)
			DAMAGE_ONE_OF(at, nonresident_fields);
		else
			DAMAGE_ONE_OF(at, resident_fields);
		break;
	case 3:
	case 4:
		damage_value(attr, room);
		break;
	case 5:
		memset(at + random_below(room), (int)random_below(2) * 0xff, 1);
		break;
	case 6:
		record[random_below(base->record_size)] ^= (uint8_t)(1u << random_below(8));
		break;
	default:
		DAMAGE_ONE_OF(record, record_fields);
	}
}

/* Takes the fixups off and puts them on again as the undamaged record has them: the damage lies behind them. */
static void damage_record(void)
{
	_Alignas(8) uint8_t record[4096];
	uint32_t number = pick_record(), size = base->record_size;
	load_record(base, image_bytes, number, record);
	bool protected = mft_record(record)->magic == magic_FILE && record_unprotect(record, size) == 0;
	for (unsigned int i = 1 + (unsigned int)random_below(2); i; i--)
		damage_record_bytes(record);
	uint32_t usa = le16_to_cpu(mft_record(record)->usa_ofs);
	if (protected && usa % 2 == 0 && usa < 400) {
		for (uint32_t end = 510, i = 1; end < size; end += 512, i++) {
			memcpy(record + usa + 2 * i, record + end, 2);
			memcpy(record + end, record + usa, 2);
		}
	}
	store_record(base, image_bytes, number, record, random_below(8) != 0);
}

static uint8_t *random_byte_of(const struct run_list *runs, uint32_t bytes_below)
{
	if (!runs->count)
		return image_bytes + random_below(base->size);
	uint64_t off = random_below(bytes_below);
	for (size_t i = 0; i < runs->count; i++) {
		uint64_t length = runs->runs[i].length * base->cluster;
		if (off < length)
			return image_bytes + runs->runs[i].lcn * base->cluster + off;
		off -= length;
	}
	return image_bytes + runs->runs[0].lcn * base->cluster;
}

static void damage_boot(void)
{
	uint32_t sector = base->record_option ? 4096 : 512;
	DAMAGE_ONE_OF(image_bytes, boot_fields);
	if (random_below(8))
		memcpy(image_bytes + base->size / sector * sector - sector, image_bytes, sector);
}

/* The clusters of an attribute list that is not in its record. */
static void damage_outside_list(void)
{
	_Alignas(8) uint8_t record[4096];
	if (!base->listed_count)
		return;
	load_record(base, base->bytes, base->listed[random_below(base->listed_count)], record);
	CHECK_IS(record_unprotect(record, base->record_size), 0);
	record_for_each(attr, record)
	{
		struct run_list runs = {0};
		uint64_t vcns;
		if (attr->type != AT_ATTRIBUTE_LIST || !attr->non_resident)
			continue;
		CHECK_IS(mapping_pairs_decode((uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr), UINT32_MAX,
		                              &runs, &vcns),
		         0);
		damage_list_entries(image_bytes + runs.runs[0].lcn * base->cluster,
		                    random_below(2) ? (uint32_t)sle64_to_cpu(attr->data_size) % base->cluster
		                                    : base->cluster);
		run_list_free(&runs);
	}
}

void damage_more(void)
{
	uint64_t dice = random_below(100);
	if (dice < 70)
		damage_record();
	else if (dice < 80)
		damage_outside_list();
	else if (dice < 90)
		damage_boot();
	else if (dice < 95)
		*random_byte_of(&base->bitmap, (uint32_t)(base->size / base->cluster / 8)) ^=
		        (uint8_t)(1u << random_below(8));
	else
		*random_byte_of(&base->mft_bitmap, base->records / 8) ^= (uint8_t)(1u << random_below(8));
}

void damage(void)
{
	memcpy(image_bytes, base->bytes, base->size);
	for (unsigned int i = random_below(3) ? 1 : 1 + (unsigned int)random_below(4); i; i--)
		damage_more();
}

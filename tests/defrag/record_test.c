/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: fixups come off and on again as they were and give torn writes away; a record that passes the check,
 * whatever its bytes, can be walked, edited and protected without leaving it; edits change the attribute that they mean
 * and no other.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "defrag/record.h"
#include "tests/mapdb/check.h"

#define ROUNDS      6000
#define MUTATIONS   40
#define SIZE_MAX_   4096u
#define ATTRS_MAX   24u
#define VOLUME_SIZE (UINT64_C(1) << 32) /* clusters */

static uint32_t record_size;

/* ---- making records ---- */

static void start_record(uint8_t *record)
{
	MFT_RECORD *m = mft_record(record);
	random_bytes(record, record_size); /* what is in the slack does not matter */
	memset(record, 0, 56);
	m->magic = magic_FILE;
	m->usa_ofs = cpu_to_le16(48);
	m->usa_count = cpu_to_le16((uint16_t)(record_size / 512 + 1));
	m->sequence_number = cpu_to_le16(3);
	m->flags = MFT_RECORD_IN_USE;
	m->bytes_allocated = cpu_to_le32(record_size);
	m->attrs_offset = cpu_to_le16((uint16_t)((48 + 2 * (record_size / 512 + 1) + 7) & ~7u));
	m->bytes_in_use = cpu_to_le32(le16_to_cpu(m->attrs_offset) + 8u);
	*(le32 *)(record + le16_to_cpu(m->attrs_offset)) = AT_END;
}

static uint8_t *record_end(uint8_t *record)
{
	return record + le32_to_cpu(mft_record(record)->bytes_in_use) - 8;
}

/* Room for another attribute of that length: where it goes, or NULL. */
static ATTR_RECORD *append(uint8_t *record, uint32_t length)
{
	if (record_free_bytes(record) < length)
		return NULL;
	ATTR_RECORD *attr = (ATTR_RECORD *)record_end(record);
	memset(attr, 0, length);
	attr->length = cpu_to_le32(length);
	mft_record(record)->bytes_in_use = cpu_to_le32(le32_to_cpu(mft_record(record)->bytes_in_use) + length);
	*(le32 *)record_end(record) = AT_END;
	return attr;
}

static bool add_resident(uint8_t *record, uint32_t type, uint8_t name_length)
{
	uint32_t value = (uint32_t)random_below(100), name = (24u + 2u * name_length + 7) & ~7u;
	ATTR_RECORD *attr = append(record, (name + value + 7) & ~7u);
	if (!attr)
		return false;
	attr->type = cpu_to_le32(type);
	attr->name_length = name_length;
	attr->name_offset = cpu_to_le16(24);
	random_bytes((uint8_t *)attr + 24, 2u * name_length);
	attr->value_offset = cpu_to_le16((uint16_t)name);
	attr->value_length = cpu_to_le32(value);
	random_bytes((uint8_t *)attr + name, value);
	return true;
}

static size_t random_runs(struct run *runs, size_t most)
{
	size_t count = 1 + random_below(most);
	for (size_t i = 0; i < count; i++)
		runs[i] = (struct run){.lcn = i % 3 == 1 ? RUN_HOLE : random_below(VOLUME_SIZE / 2) * 2,
		                       .length = 1 + 2 * random_below(40)};
	return count;
}

static bool add_nonresident(uint8_t *record, uint32_t type, uint8_t name_length)
{
	struct run runs[8];
	size_t count = random_runs(runs, 8), used, size = mapping_pairs_size(runs, count);
	bool sparse = random_below(2);
	uint32_t name = sparse ? 72 : 64, pairs = (name + 2u * name_length + 7) & ~7u;
	ATTR_RECORD *attr = append(record, (uint32_t)(pairs + size + 7) & ~7u);
	if (!attr)
		return false;
	uint64_t vcns = 0;
	for (size_t i = 0; i < count; i++)
		vcns += runs[i].length;
	attr->type = cpu_to_le32(type);
	attr->non_resident = 1;
	attr->name_length = name_length;
	attr->name_offset = cpu_to_le16((uint16_t)name);
	attr->flags = sparse ? ATTR_IS_SPARSE : (ATTR_FLAGS)0;
	random_bytes((uint8_t *)attr + name, 2u * name_length);
	attr->mapping_pairs_offset = cpu_to_le16((uint16_t)pairs);
	attr->highest_vcn = cpu_to_sle64((int64_t)vcns - 1);
	CHECK_IS(mapping_pairs_encode(runs, count, (uint8_t *)attr + pairs, size, &used), count);
	return true;
}

static void make_record(uint8_t *record)
{
	uint32_t type = 0x10;
	record_size = 512u << random_below(4);
	start_record(record);
	for (unsigned int i = 1 + (unsigned int)random_below(ATTRS_MAX); i; i--) {
		uint8_t name_length = (uint8_t)(random_below(2) ? 0 : random_below(12));
		type += 0x10 * (uint32_t)random_below(3);
		if (!(random_below(2) ? add_resident : add_nonresident)(record, type, name_length))
			break;
	}
	CHECK_IS(record_check(record, record_size), 0);
}

/* ---- fixups ---- */

static void check_fixups(const uint8_t *record)
{
	static uint8_t disk[SIZE_MAX_], back[SIZE_MAX_], torn[SIZE_MAX_];
	memcpy(disk, record, record_size);
	uint16_t number = (uint16_t)(1 + random_below(0xfffe));
	memcpy(disk + 48, &number, 2);
	record_protect(disk, record_size);
	memcpy(back, disk, record_size);
	CHECK_IS(record_unprotect(back, record_size), 0);
	for (uint32_t i = 0; i < record_size; i++) /* the array itself keeps what was put there */
		CHECK((i >= 48 && i < 50 + 2 * (record_size / 512)) || back[i] == record[i]);
	record_protect(back, record_size);
	CHECK(!memcmp(back, disk, record_size));
	memcpy(torn, disk, record_size);
	torn[random_below(record_size / 512) * 512 + 510 + random_below(2)] ^= (uint8_t)(1u << random_below(8));
	CHECK_IS(record_unprotect(torn, record_size), -EUCLEAN);
	memcpy(torn, disk, record_size);
	mft_record(torn)->usa_count = cpu_to_le16((uint16_t)random_below(record_size / 512 + 1));
	CHECK_IS(record_unprotect(torn, record_size), -EUCLEAN);
	memcpy(torn, disk, record_size);
	mft_record(torn)->usa_ofs = cpu_to_le16((uint16_t)(510 - 2 * random_below(record_size / 512 + 1)));
	CHECK_IS(record_unprotect(torn, record_size), -EUCLEAN);
}

/* ---- edits, against copies of the attributes ---- */

struct copy {
	uint32_t length;
	uint8_t bytes[SIZE_MAX_];
};

static struct copy copies[170];

static size_t take_apart(uint8_t *record)
{
	size_t count = 0;
	record_for_each(attr, record)
	{
		copies[count].length = le32_to_cpu(attr->length);
		memcpy(copies[count++].bytes, attr, le32_to_cpu(attr->length));
	}
	return count;
}

/* The record is made of the copies, in order, and of nothing else. */
static void compare(uint8_t *record, size_t count)
{
	size_t i = 0;
	uint32_t used = le16_to_cpu(mft_record(record)->attrs_offset) + 8u;
	CHECK_IS(record_check(record, record_size), 0);
	record_for_each(attr, record)
	{
		CHECK(i < count);
		CHECK_IS(le32_to_cpu(attr->length), copies[i].length);
		CHECK(!memcmp(attr, copies[i].bytes, copies[i].length));
		used += copies[i++].length;
	}
	CHECK_IS(i, count);
	CHECK_IS(le32_to_cpu(mft_record(record)->bytes_in_use), used);
}

static ATTR_RECORD *nth(uint8_t *record, size_t n)
{
	ATTR_RECORD *attr = record_next(record, NULL);
	while (n--)
		attr = record_next(record, attr);
	return attr;
}

static void resize(uint8_t *record, size_t count, size_t index)
{
	uint32_t least = copies[index].length > 200 ? 200 : copies[index].length,
	         length = least + (uint32_t)random_below(300);
	uint32_t rounded = (length + 7) & ~7u, old = copies[index].length, room = record_free_bytes(record);
	int r = record_resize_attr(record, nth(record, index), length);
	CHECK_IS(r, rounded > old && rounded - old > room ? -ENOSPC : 0);
	if (r < 0)
		return compare(record, count);
	if (rounded > old)
		memset(copies[index].bytes + old, 0, rounded - old);
	copies[index].length = rounded;
	((ATTR_RECORD *)copies[index].bytes)->length = cpu_to_le32(rounded);
	if (rounded >= old)
		compare(record, count);
}

static void set_runs(uint8_t *record, size_t count, size_t index)
{
	struct run runs[30];
	ATTR_RECORD *attr = nth(record, index);
	size_t run_count = random_runs(runs, 30), size = mapping_pairs_size(runs, run_count);
	struct run_list list = {0};
	uint64_t vcns;
	bool fits = size <= attr_pairs_room(attr) + (record_free_bytes(record) & ~7u);
	CHECK_IS(record_set_runs(record, attr, runs, run_count), fits ? 0 : -ENOSPC);
	if (!fits)
		return compare(record, count);
	const uint8_t *pairs = (const uint8_t *)attr + attr_pairs_off(attr);
	CHECK_IS(mapping_pairs_decode(pairs, attr_pairs_room(attr), VOLUME_SIZE * 2, &list, &vcns), 0);
	CHECK_IS(list.count, run_count);
	CHECK(!memcmp(list.runs, runs, run_count * sizeof(*runs)));
	for (size_t i = size; i < attr_pairs_room(attr); i++)
		CHECK(!pairs[i]);
	copies[index].length =
	        le32_to_cpu(attr->length); /* what stands before the runs must be the same but for the length */
	((ATTR_RECORD *)copies[index].bytes)->length = attr->length;
	memcpy(copies[index].bytes + attr_pairs_off(attr), pairs, attr_pairs_room(attr));
	compare(record, count);
	run_list_free(&list);
}

static void remove_attr(uint8_t *record, size_t *count, size_t index)
{
	record_remove_attr(record, nth(record, index));
	memmove(&copies[index], &copies[index + 1], (--*count - index) * sizeof(*copies));
	compare(record, *count);
}

static void check_edits(uint8_t *record)
{
	size_t count = take_apart(record);
	for (unsigned int i = 0; i < 12 && count; i++) {
		size_t index = random_below(count);
		bool nonresident = nth(record, index)->non_resident;
		switch (random_below(4)) {
		case 0:
			remove_attr(record, &count, index);
			break;
		case 1:
			if (!nonresident && copies[index].length > 200)
				break; /* cutting into a value is not an edit that is made */
			resize(record, count, index);
			break;
		default:
			if (nonresident)
				set_runs(record, count, index);
		}
	}
}

/* ---- damage ---- */

static void mutate(uint8_t *record)
{
	static const uint8_t telling[] = {0, 1, 0x7f, 0x80, 0xff, 0x10, 0x18, 0x40, 0x48};
	uint32_t used = le32_to_cpu(mft_record(record)->bytes_in_use);
	if (used > record_size)
		used = record_size;
	for (unsigned int i = 1 + (unsigned int)random_below(4); i; i--) {
		uint32_t at = (uint32_t)random_below(used ? used : 1);
		record[at] = random_below(2) ? telling[random_below(sizeof(telling))] : (uint8_t)random_below(256);
	}
}

/* Everything that is done with a record that has passed. The sanitizer sees whoever leaves it. */
static uint64_t use(uint8_t *record)
{
	struct run_list list = {0};
	uint64_t vcns, sum = 0;
	record_for_each(attr, record)
	{
		const uint8_t *start = (const uint8_t *)attr;
		CHECK(start >= record && start + le32_to_cpu(attr->length) <= record + record_size);
		sum += attr_name_hash(attr_name(attr), attr->name_length);
		if (attr->non_resident)
			mapping_pairs_decode(start + attr_pairs_off(attr), attr_pairs_room(attr), VOLUME_SIZE, &list,
			                     &vcns);
		else
			for (uint32_t i = 0; i < le32_to_cpu(attr->value_length); i++)
				sum += attr_value(attr)[i];
	}
	run_list_free(&list);
	ATTR_RECORD *first = record_next(record, NULL);
	if (first && first->non_resident) {
		static const struct run runs[] = {{5, 7}, {UINT64_C(1) << 31, 9}};
		record_set_runs(record, first, runs, 2);
		CHECK_IS(record_check(record, record_size), 0);
	}
	if (first) {
		record_remove_attr(record, record_next(record, NULL));
		CHECK_IS(record_check(record, record_size), 0);
	}
	return sum;
}

static void check_mutations(const uint8_t *record, unsigned int *accepted)
{
	for (unsigned int i = 0; i < MUTATIONS; i++) {
		uint8_t *copy = malloc(record_size);
		CHECK(copy);
		memcpy(copy, record, record_size);
		mutate(copy);
		if (record_check(copy, record_size) == 0) {
			*accepted += use(copy) != 0;
		}
		if (record_unprotect(copy, record_size) == 0)
			record_protect(copy, record_size);
		free(copy);
	}
}

int main(void)
{
	_Alignas(8) static uint8_t record[SIZE_MAX_];
	unsigned int accepted = 0;
	random_start();
	for (unsigned int round = 0; round < ROUNDS; round++) {
		check_context("round %u", round);
		make_record(record);
		check_fixups(record);
		check_mutations(record, &accepted);
		check_edits(record);
	}
	CHECK(accepted > ROUNDS);
	return 0;
}

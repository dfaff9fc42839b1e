/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/record.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define STRIDE                  NTFS_BLOCK_SIZE /* bytes that one update sequence entry protects, whatever the sector size */
#define ATTR_HEADER_RESIDENT    24u
#define ATTR_HEADER_NONRESIDENT 64u

static bool usa_is_sane(const uint8_t *record, uint32_t record_size)
{
	const NTFS_RECORD *header = (const NTFS_RECORD *)record;
	uint32_t off = le16_to_cpu(header->usa_ofs), count = le16_to_cpu(header->usa_count);
	return off % 2 == 0 && off >= sizeof(*header) && count == record_size / STRIDE + 1 &&
	       off + count * 2 <= STRIDE - 2;
}

int record_unprotect(uint8_t *record, uint32_t record_size)
{
	if (!usa_is_sane(record, record_size))
		return -EUCLEAN;
	uint8_t *usa = record + le16_to_cpu(((NTFS_RECORD *)record)->usa_ofs);
	for (uint32_t end = STRIDE - 2, i = 1; end < record_size; end += STRIDE, i++)
		if (memcmp(record + end, usa, 2) != 0)
			return -EUCLEAN;
	for (uint32_t end = STRIDE - 2, i = 1; end < record_size; end += STRIDE, i++)
		memcpy(record + end, usa + 2 * i, 2);
	return 0;
}

void record_protect(uint8_t *record, uint32_t record_size)
{
	assert(usa_is_sane(record, record_size));
	uint8_t *usa = record + le16_to_cpu(((NTFS_RECORD *)record)->usa_ofs);
	for (uint32_t end = STRIDE - 2, i = 1; end < record_size; end += STRIDE, i++) {
		memcpy(usa + 2 * i, record + end, 2);
		memcpy(record + end, usa, 2);
	}
}

static bool resident_is_sane(const ATTR_RECORD *attr, uint32_t length)
{
	uint32_t value = le32_to_cpu(attr->value_length), off = le16_to_cpu(attr->value_offset);
	return length >= ATTR_HEADER_RESIDENT && off >= ATTR_HEADER_RESIDENT && off <= length && value <= length - off;
}

static bool nonresident_is_sane(const ATTR_RECORD *attr, uint32_t length)
{
	uint32_t pairs = le16_to_cpu(attr->mapping_pairs_offset), name_off = le16_to_cpu(attr->name_offset);
	/* A name among the runs would change with them. */
	if (attr->name_length && (name_off < ATTR_HEADER_NONRESIDENT || name_off + attr->name_length * 2u > pairs))
		return false;
	return length > ATTR_HEADER_NONRESIDENT && pairs >= ATTR_HEADER_NONRESIDENT && pairs < length &&
	       sle64_to_cpu(attr->lowest_vcn) >= 0 &&
	       sle64_to_cpu(attr->highest_vcn) >= sle64_to_cpu(attr->lowest_vcn) - 1;
}

static bool attr_is_sane(const ATTR_RECORD *attr, uint32_t available)
{
	uint32_t length = le32_to_cpu(attr->length);
	if (available < ATTR_HEADER_RESIDENT || length < ATTR_HEADER_RESIDENT || length % 8 || length > available)
		return false;
	uint32_t name_off = le16_to_cpu(attr->name_offset);
	if (attr->name_length && (name_off % 2 || name_off < 16 || name_off + attr->name_length * 2u > length))
		return false;
	if (attr->non_resident > 1)
		return false;
	return attr->non_resident ? nonresident_is_sane(attr, length) : resident_is_sane(attr, length);
}

int record_check(const uint8_t *record, uint32_t record_size)
{
	const MFT_RECORD *m = (const MFT_RECORD *)record;
	uint32_t off = le16_to_cpu(m->attrs_offset), used = le32_to_cpu(m->bytes_in_use);
	uint32_t usa_end = le16_to_cpu(m->usa_ofs) + 2u * le16_to_cpu(m->usa_count);
	if (m->magic != magic_FILE || le32_to_cpu(m->bytes_allocated) != record_size || used > record_size ||
	    used % 8 || off % 8 || off < usa_end)
		return -EUCLEAN;
	uint32_t previous_type = 0;
	for (;;) {
		if (off > used || used - off < 8)
			return -EUCLEAN;
		const ATTR_RECORD *attr = (const ATTR_RECORD *)(record + off);
		uint32_t type = le32_to_cpu(attr->type);
		if (attr->type == AT_END)
			return 0; /* the end marker takes 8 bytes; what follows it is slack */
		if (!type || type < previous_type || !attr_is_sane(attr, used - off))
			return -EUCLEAN;
		previous_type = type;
		off += le32_to_cpu(attr->length);
	}
}

ATTR_RECORD *record_next(uint8_t *record, ATTR_RECORD *attr)
{
	uint8_t *next = attr ? (uint8_t *)attr + le32_to_cpu(attr->length)
	                     : record + le16_to_cpu(mft_record(record)->attrs_offset);
	ATTR_RECORD *found = (ATTR_RECORD *)next;
	return found->type == AT_END ? NULL : found;
}

uint64_t attr_name_hash(const ntfschar *name, unsigned int length)
{
	return length ? XXH3_64bits(name, length * 2) : 0;
}

uint32_t record_free_bytes(const uint8_t *record)
{
	const MFT_RECORD *m = (const MFT_RECORD *)record;
	return le32_to_cpu(m->bytes_allocated) - le32_to_cpu(m->bytes_in_use);
}

int record_resize_attr(uint8_t *record, ATTR_RECORD *attr, uint32_t length)
{
	MFT_RECORD *m = mft_record(record);
	uint32_t old = le32_to_cpu(attr->length), used = le32_to_cpu(m->bytes_in_use);
	uint32_t start = (uint32_t)((uint8_t *)attr - record);
	length = (length + 7) & ~UINT32_C(7);
	if (length > old && length - old > record_free_bytes(record))
		return -ENOSPC;
	memmove(record + start + length, record + start + old, used - start - old);
	if (length > old)
		memset(record + start + old, 0, length - old);
	else
		memset(record + used - (old - length), 0, old - length);
	attr->length = cpu_to_le32(length);
	m->bytes_in_use = cpu_to_le32(used - old + length);
	return 0;
}

void record_remove_attr(uint8_t *record, ATTR_RECORD *attr)
{
	MFT_RECORD *m = mft_record(record);
	uint32_t length = le32_to_cpu(attr->length), used = le32_to_cpu(m->bytes_in_use);
	uint32_t start = (uint32_t)((uint8_t *)attr - record);
	memmove(record + start, record + start + length, used - start - length);
	memset(record + used - length, 0, length);
	m->bytes_in_use = cpu_to_le32(used - length);
}

int record_set_runs(uint8_t *record, ATTR_RECORD *attr, const struct run *runs, size_t count)
{
	size_t pairs = attr_pairs_off(attr), size = mapping_pairs_size(runs, count), used;
	if (size > attr_pairs_room(attr)) {
		int r = record_resize_attr(record, attr, (uint32_t)(pairs + size));
		if (r < 0)
			return r;
	}
	uint8_t *to = (uint8_t *)attr + pairs;
	size_t room = attr_pairs_room(attr);
	size_t done = mapping_pairs_encode(runs, count, to, room, &used);
	assert(done == count);
	memset(to + used, 0, room - used);
	return 0;
}

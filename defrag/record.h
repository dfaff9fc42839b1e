/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * record: MFT records and their attributes, taken apart with every offset checked, and edited in place.
 *
 * Structures and constants are ntfs-3g's (layout.h). Everything here works on one record in memory; nothing does I/O.
 * The update sequence number is kept: a record reaches the disk through redo, which is replayed as a whole after a
 * crash, so a torn write cannot be seen, and a change touches no more bytes than it must.
 */
#ifndef ZCFS_RECORD_H
#define ZCFS_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <ntfs-3g/types.h>

#include <ntfs-3g/endians.h>
#include <ntfs-3g/layout.h>

#include "defrag/run_list.h"

/* Checks the update sequence array and puts the real bytes at the ends of the 512-byte strides. -EUCLEAN if it does not
 * match. */
int record_unprotect(uint8_t *record, uint32_t record_size);
/* The reverse, with the same update sequence number. The record must have passed record_unprotect. */
void record_protect(uint8_t *record, uint32_t record_size);

/* Checks the header of an unprotected FILE record and all its attributes: lengths, alignment, names, values and run
 * lists lie inside. After this the functions below cannot leave the record. -EUCLEAN. */
int record_check(const uint8_t *record, uint32_t record_size);

/* The first attribute, or the one after attr; NULL at the end. */
ATTR_RECORD *record_next(uint8_t *record, ATTR_RECORD *attr);
#define record_for_each(attr, record)                                                                                  \
	for (ATTR_RECORD *attr = record_next(record, NULL); attr; attr = record_next(record, attr))

static inline MFT_RECORD *mft_record(uint8_t *record)
{
	return (MFT_RECORD *)record;
}

/* Bytes from the start of the attribute to its run list, and of the space for it inside the attribute. */
static inline size_t attr_pairs_off(const ATTR_RECORD *attr)
{
	return le16_to_cpu(attr->mapping_pairs_offset);
}
static inline size_t attr_pairs_room(const ATTR_RECORD *attr)
{
	return le32_to_cpu(attr->length) - attr_pairs_off(attr);
}
static inline const ntfschar *attr_name(const ATTR_RECORD *attr)
{
	return (const ntfschar *)((const uint8_t *)attr + le16_to_cpu(attr->name_offset));
}
static inline uint8_t *attr_value(ATTR_RECORD *attr)
{
	return (uint8_t *)attr + le16_to_cpu(attr->value_offset);
}
/* 64 bits that tell attributes of one type apart by name (case kept). 0 without a name. */
uint64_t attr_name_hash(const ntfschar *name, unsigned int length);

/* Bytes of the record that no attribute uses. */
uint32_t record_free_bytes(const uint8_t *record);
/* Gives the attribute a length (rounded up to 8), moving those behind it. -ENOSPC if the record is too small. */
int record_resize_attr(uint8_t *record, ATTR_RECORD *attr, uint32_t length);
void record_remove_attr(uint8_t *record, ATTR_RECORD *attr);
/* Puts a new run list into a non-resident attribute, making room when it must; unused bytes are zeroed. -ENOSPC. */
int record_set_runs(uint8_t *record, ATTR_RECORD *attr, const struct run *runs, size_t count);

#endif

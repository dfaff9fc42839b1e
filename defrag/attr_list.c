/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/attr_list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ENTRY_HEADER offsetof(ATTR_LIST_ENTRY, name)

void attr_list_free(struct attr_list *list)
{
	free(list->entries);
	free(list->bytes);
	*list = (struct attr_list){0};
}

static size_t entry_size(unsigned int name_length)
{
	return (ENTRY_HEADER + 2u * name_length + 7) & ~(size_t)7;
}

static int parse_entry(const uint8_t *bytes, size_t available, struct list_entry *entry)
{
	const ATTR_LIST_ENTRY *raw = (const ATTR_LIST_ENTRY *)bytes;
	if (available < ENTRY_HEADER)
		return -EUCLEAN;
	uint32_t length = le16_to_cpu(raw->length);
	uint64_t reference = le64_to_cpu(raw->mft_reference);
	if (length % 8 || length < ENTRY_HEADER || length > available || MREF(reference) > UINT32_MAX ||
	    (raw->name_length && (raw->name_offset % 2 || raw->name_offset < ENTRY_HEADER ||
	                          raw->name_offset + 2u * raw->name_length > length)))
		return -EUCLEAN;
	*entry = (struct list_entry){
	        .type = le32_to_cpu(raw->type),
	        .record = (uint32_t)MREF(reference),
	        .sequence = MSEQNO(reference),
	        .instance = le16_to_cpu(raw->instance),
	        .name_length = raw->name_length,
	        .name = (const ntfschar *)(bytes + raw->name_offset),
	        .lowest_vcn = (uint64_t)sle64_to_cpu(raw->lowest_vcn),
	};
	entry->name_hash = attr_name_hash(entry->name, entry->name_length);
	return (int)length;
}

int attr_list_parse(uint8_t *bytes, size_t size, struct attr_list *list)
{
	size_t most = size / ENTRY_HEADER + 1;
	*list = (struct attr_list){.bytes = bytes, .entries = calloc(most, sizeof(struct list_entry))};
	if (!list->entries) {
		attr_list_free(list);
		return -ENOMEM;
	}
	for (size_t pos = 0; pos < size;) {
		struct list_entry *entry = &list->entries[list->count];
		int length = parse_entry(bytes + pos, size - pos, entry);
		if (length < 0 || (list->count && entry->type < entry[-1].type)) {
			attr_list_free(list);
			return -EUCLEAN;
		}
		list->count++;
		pos += (size_t)length;
	}
	return 0;
}

size_t attr_list_size(const struct attr_list *list)
{
	size_t size = 0;
	for (size_t i = 0; i < list->count; i++)
		size += entry_size(list->entries[i].name_length);
	return size;
}

void attr_list_write(const struct attr_list *list, uint8_t *bytes)
{
	for (size_t i = 0; i < list->count; i++) {
		const struct list_entry *entry = &list->entries[i];
		size_t length = entry_size(entry->name_length);
		ATTR_LIST_ENTRY *raw = (ATTR_LIST_ENTRY *)bytes;
		memset(bytes, 0, length);
		raw->type = cpu_to_le32(entry->type);
		raw->length = cpu_to_le16((uint16_t)length);
		raw->name_length = entry->name_length;
		raw->name_offset = ENTRY_HEADER;
		raw->lowest_vcn = cpu_to_sle64((int64_t)entry->lowest_vcn);
		raw->mft_reference = MK_LE_MREF(entry->record, entry->sequence);
		raw->instance = cpu_to_le16(entry->instance);
		memcpy(bytes + ENTRY_HEADER, entry->name, 2u * entry->name_length);
		bytes += length;
	}
}

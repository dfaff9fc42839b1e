/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * attr_list: the contents of an $ATTRIBUTE_LIST, which says in which MFT records a file's attributes are.
 *
 * Entries are kept in the order of the list, which is the order in which attributes must stand.
 */
#ifndef ZCFS_ATTR_LIST_H
#define ZCFS_ATTR_LIST_H

#include <stddef.h>
#include <stdint.h>

#include "defrag/record.h"

#define ATTR_LIST_SIZE_MAX (256u * 1024) /* bytes, NTFS's own limit */

struct list_entry {
	uint32_t type;
	uint32_t record;
	uint16_t sequence;
	uint16_t instance;
	uint8_t name_length;  /* UTF-16 units */
	const ntfschar *name; /* inside the bytes that were parsed */
	uint64_t name_hash;
	uint64_t lowest_vcn;
};

struct attr_list {
	struct list_entry *entries;
	size_t count;
	uint8_t *bytes; /* owned; what entries point into */
};

void attr_list_free(struct attr_list *list);
/* Takes ownership of bytes, also on error. -EUCLEAN: not an attribute list; -ENOMEM. */
int attr_list_parse(uint8_t *bytes, size_t size, struct attr_list *list);
/* Bytes that the entries take on disk, and writing them. */
size_t attr_list_size(const struct attr_list *list);
void attr_list_write(const struct attr_list *list, uint8_t *bytes);

#endif

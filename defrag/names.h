/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * names: the directories of a volume by record number, to tell people which file is meant.
 *
 * For messages and history, and to find what the user has named. A path is put together on demand. Names come from the guest: loops and missing parents end a path
 * with "?", and whatever NTFS allows may be in them, a backslash (POSIX names) and control characters included.
 */
#ifndef ZCFS_NAMES_H
#define ZCFS_NAMES_H

#include <stddef.h>
#include <stdint.h>

#include "defrag/record.h"

#define ROOT_RECORD 5u

#define NAME_PATH_DEPTH_MAX 256                                             /* directories above a file */
#define NAME_PATH_SIZE_MAX  ((NAME_PATH_DEPTH_MAX + 1) * (255 * 3 + 1) + 3) /* bytes that hold any path */

struct directory_name {
	uint32_t record;
	uint32_t parent;
	uint32_t text_off; /* in text, NUL-terminated UTF-8 */
	bool dos;
};

struct name_table {
	struct directory_name *directories;
	size_t count, capacity;
	char *text;
	size_t text_size, text_capacity;
};

void name_table_free(struct name_table *table);

/* The $FILE_NAME in an attribute; NULL if it holds none, or a broken one. */
const FILE_NAME_ATTR *attr_file_name(ATTR_RECORD *attr);

/* The name that people see: the first $FILE_NAME of the record that is not a DOS name. If it has only a DOS name, that
 * one; the other is in another record then. NULL if the record holds none. */
const FILE_NAME_ATTR *record_file_name(uint8_t *record);

/* UTF-8 of a name of length UTF-16 units (any alignment), always terminated; zeros and surrogates that do not pair
 * become U+FFFD. Returns its length in bytes. */
size_t name_to_utf8(const void *name, unsigned int length, char *text, size_t size);

/* Adds a directory, or anything that may be one, by its base record. If it is added again, what counts is the first
 * name that is not a DOS name. -ENOMEM. */
int name_table_add(struct name_table *table, uint32_t record, const FILE_NAME_ATTR *name);
/* Before paths are asked for. */
void name_table_sort(struct name_table *table);

/* "\Users\x\big.vhd" of a file with that name, as Windows shows it without the drive. What does not fit is missing at
 * the front, and "?" stands for it. size: 3 at least. */
void name_table_path(const struct name_table *table, const FILE_NAME_ATTR *name, char *path, size_t size);

/* "$DATA", "$INDEX_ALLOCATION", ... */
const char *attr_type_name(uint32_t type);

#endif

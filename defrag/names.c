/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/names.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void name_table_free(struct name_table *table)
{
	free(table->directories);
	free(table->text);
	*table = (struct name_table){0};
}

const FILE_NAME_ATTR *attr_file_name(ATTR_RECORD *attr)
{
	if (attr->type != AT_FILE_NAME || attr->non_resident)
		return NULL;
	const FILE_NAME_ATTR *name = (const FILE_NAME_ATTR *)attr_value(attr);
	uint32_t size = le32_to_cpu(attr->value_length);
	return size < sizeof(*name) || size < sizeof(*name) + 2u * name->file_name_length ? NULL : name;
}

const FILE_NAME_ATTR *record_file_name(uint8_t *record)
{
	const FILE_NAME_ATTR *found = NULL;
	record_for_each(attr, record)
	{
		const FILE_NAME_ATTR *name = attr_file_name(attr);
		if (!name)
			continue;
		if (!found)
			found = name;
		if (name->file_name_type != FILE_NAME_DOS)
			return name;
	}
	return found;
}

static unsigned int encode_utf8(uint32_t c, char *out)
{
	if (c < 0x80) {
		out[0] = (char)c;
		return 1;
	}
	unsigned int size = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
	for (unsigned int i = size - 1; i; i--, c >>= 6)
		out[i] = (char)(0x80 | (c & 0x3f));
	out[0] = (char)((0xf00 >> size) | c);
	return size;
}

static uint32_t utf16_unit(const void *name, unsigned int index)
{
	const uint8_t *p = (const uint8_t *)name + 2 * index;
	return p[0] | (uint32_t)p[1] << 8;
}

size_t name_to_utf8(const void *name, unsigned int length, char *text, size_t size)
{
	size_t used = 0;
	for (unsigned int i = 0; i < length; i++) {
		uint32_t c = utf16_unit(name, i);
		if (c >= 0xd800 && c < 0xe000) {
			uint32_t low = i + 1 < length ? utf16_unit(name, i + 1) : 0;
			if (c < 0xdc00 && low >= 0xdc00 && low < 0xe000) {
				c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
				i++;
			} else {
				c = 0xfffd;
			}
		}
		char bytes[4];
		unsigned int count = encode_utf8(c ? c : 0xfffd, bytes);
		if (used + count >= size)
			break;
		memcpy(text + used, bytes, count);
		used += count;
	}
	text[used] = 0;
	return used;
}

int name_table_add(struct name_table *table, uint32_t record, const FILE_NAME_ATTR *name)
{
	char text[255 * 3 + 1];
	size_t length = name_to_utf8(name->file_name, name->file_name_length, text, sizeof(text)) + 1;
	if (table->count == table->capacity) {
		size_t capacity = table->capacity ? table->capacity * 2 : 1024;
		void *grown = reallocarray(table->directories, capacity, sizeof(*table->directories));
		if (!grown)
			return -ENOMEM;
		table->directories = grown;
		table->capacity = capacity;
	}
	if (table->text_size + length > table->text_capacity) {
		size_t capacity = table->text_capacity * 2 + 65536;
		char *grown = capacity > UINT32_MAX ? NULL : realloc(table->text, capacity);
		if (!grown)
			return -ENOMEM;
		table->text = grown;
		table->text_capacity = capacity;
	}
	memcpy(table->text + table->text_size, text, length);
	table->directories[table->count++] = (struct directory_name){
	        .record = record,
	        .parent = (uint32_t)MREF_LE(name->parent_directory),
	        .text_off = (uint32_t)table->text_size,
	        .dos = name->file_name_type == FILE_NAME_DOS,
	};
	table->text_size += length;
	return 0;
}

static int compare_directories(const void *a, const void *b)
{
	const struct directory_name *x = a, *y = b;
	if (x->record != y->record)
		return x->record < y->record ? -1 : 1;
	if (x->dos != y->dos)
		return x->dos ? 1 : -1;
	return x->text_off < y->text_off ? -1 : x->text_off > y->text_off;
}

/* A scan meets most in order: only names in extension records are not. Of several names the first one is kept. */
void name_table_sort(struct name_table *table)
{
	struct directory_name *names = table->directories;
	size_t sorted = 1, kept = 0;
	while (sorted < table->count && compare_directories(&names[sorted - 1], &names[sorted]) < 0)
		sorted++;
	if (sorted < table->count)
		qsort(names, table->count, sizeof(*names), compare_directories);
	for (size_t i = 0; i < table->count; i++)
		if (!kept || names[i].record != names[kept - 1].record)
			names[kept++] = names[i];
	table->count = kept;
}

static int compare_record(const void *key, const void *element)
{
	uint32_t record = *(const uint32_t *)key, other = ((const struct directory_name *)element)->record;
	return record < other ? -1 : record > other;
}

static const struct directory_name *find(const struct name_table *table, uint32_t record)
{
	if (!table->count)
		return NULL;
	return bsearch(&record, table->directories, table->count, sizeof(*table->directories), compare_record);
}

/* Puts text and a separator before it in front of *start. False if that leaves no room for a "?". */
static bool prepend(char *path, size_t *start, const char *text, size_t length)
{
	if (*start < length + 2)
		return false;
	*start -= length;
	memcpy(path + *start, text, length);
	path[--*start] = '\\';
	return true;
}

void name_table_path(const struct name_table *table, const FILE_NAME_ATTR *name, char *path, size_t size)
{
	char leaf[255 * 3 + 1];
	size_t length = name_to_utf8(name->file_name, name->file_name_length, leaf, sizeof(leaf));
	uint32_t record = (uint32_t)MREF_LE(name->parent_directory);
	size_t start = size - 1;
	bool whole = true;
	path[start] = 0;
	if (record == ROOT_RECORD && strcmp(leaf, ".") == 0)
		length = 0; /* the root itself */
	if (length > size - 3)
		length = size - 3;
	prepend(path, &start, leaf, length);
	for (unsigned int depth = 0; whole && record != ROOT_RECORD; depth++) {
		const struct directory_name *directory = depth < NAME_PATH_DEPTH_MAX ? find(table, record) : NULL;
		const char *text = directory ? table->text + directory->text_off : "";
		if (directory)
			record = directory->parent;
		whole = directory && prepend(path, &start, text, strlen(text));
	}
	if (!whole)
		path[--start] = '?';
	memmove(path, path + start, size - start);
}

const char *attr_type_name(uint32_t type)
{
	static const char *const names[] = {
	        "$STANDARD_INFORMATION",
	        "$ATTRIBUTE_LIST",
	        "$FILE_NAME",
	        "$OBJECT_ID",
	        "$SECURITY_DESCRIPTOR",
	        "$VOLUME_NAME",
	        "$VOLUME_INFORMATION",
	        "$DATA",
	        "$INDEX_ROOT",
	        "$INDEX_ALLOCATION",
	        "$BITMAP",
	        "$REPARSE_POINT",
	        "$EA_INFORMATION",
	        "$EA",
	        "$PROPERTY_SET",
	        "$LOGGED_UTILITY_STREAM",
	};
	size_t index = type / 0x10 - 1;
	return type % 0x10 == 0 && index < sizeof(names) / sizeof(*names) ? names[index] : "attribute";
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: a file is named as Windows shows it, in valid UTF-8, whatever the guest has put into names and whatever the
 * size of the buffer.
 */
#include <stdio.h>
#include <string.h>

#include "defrag/names.h"
#include "tests/mapdb/check.h"

#define NAME_BYTES (sizeof(FILE_NAME_ATTR) + 255 * 2)

static uint8_t memory[NAME_BYTES];

static const FILE_NAME_ATTR *named(uint32_t parent, const uint16_t *units, size_t count)
{
	FILE_NAME_ATTR *name = (FILE_NAME_ATTR *)memory;
	name->parent_directory = MK_LE_MREF(parent, 1);
	name->file_name_length = (uint8_t)count;
	memcpy(name->file_name, units, count * 2);
	return name;
}

static const FILE_NAME_ATTR *plainly_named(uint32_t parent, const char *text)
{
	uint16_t units[255];
	size_t count = strlen(text);
	for (size_t i = 0; i < count; i++)
		units[i] = (uint8_t)text[i];
	return named(parent, units, count);
}

static void expect_path(const struct name_table *table, const FILE_NAME_ATTR *name, size_t size, const char *path)
{
	char found[600];
	memset(found, 'x', sizeof(found));
	name_table_path(table, name, found, size);
	CHECK(strlen(found) < size);
	if (strcmp(found, path) != 0)
		fprintf(stderr, "\"%s\", not \"%s\"\n", found, path);
	CHECK(strcmp(found, path) == 0);
}

static void check_paths(void)
{
	struct name_table table = {0};
	CHECK_IS(name_table_add(&table, ROOT_RECORD, plainly_named(ROOT_RECORD, ".")), 0);
	CHECK_IS(name_table_add(&table, 30, plainly_named(ROOT_RECORD, "Users")), 0);
	CHECK_IS(name_table_add(&table, 31, plainly_named(30, "x")), 0);
	CHECK_IS(name_table_add(&table, 32, plainly_named(33, "loop")), 0);
	CHECK_IS(name_table_add(&table, 33, plainly_named(32, "pool")), 0);
	expect_path(&table, plainly_named(31, "big.vhd"), 600, "\\Users\\x\\big.vhd");
	expect_path(&table, plainly_named(ROOT_RECORD, "."), 600, "\\");
	expect_path(&table, plainly_named(ROOT_RECORD, "$MFT"), 600, "\\$MFT");
	expect_path(&table, plainly_named(99, "orphan"), 600, "?\\orphan");
	expect_path(&table, plainly_named(31, "big.vhd"), 12, "?\\x\\big.vhd");
	expect_path(&table, plainly_named(31, "big.vhd"), 11, "?\\big.vhd");
	expect_path(&table, plainly_named(31, "big.vhd"), 9, "?\\big.vh");
	expect_path(&table, plainly_named(31, "big.vhd"), 3, "?\\");
	char found[600];
	name_table_path(&table, plainly_named(32, "x"), found, sizeof(found));
	CHECK(strncmp(found, "?\\", 2) == 0 && strlen(found) < sizeof(found));
	name_table_free(&table);
}

static const FILE_NAME_ATTR *typed(uint8_t type, const FILE_NAME_ATTR *name)
{
	((FILE_NAME_ATTR *)memory)->file_name_type = type;
	return name;
}

/* A directory's names may be in several records: the one for DOS is not shown if there is another. */
static void check_dos_names(void)
{
	struct name_table table = {0};
	CHECK_IS(name_table_add(&table, 29, typed(FILE_NAME_WIN32, plainly_named(ROOT_RECORD, "Before"))), 0);
	CHECK_IS(name_table_add(&table, 30, typed(FILE_NAME_DOS, plainly_named(ROOT_RECORD, "PROGRA~1"))), 0);
	CHECK_IS(name_table_add(&table, 30, typed(FILE_NAME_WIN32, plainly_named(ROOT_RECORD, "Program Files"))), 0);
	CHECK_IS(name_table_add(&table, 40, typed(FILE_NAME_WIN32, plainly_named(30, "Common Files"))), 0);
	CHECK_IS(name_table_add(&table, 40, typed(FILE_NAME_DOS, plainly_named(30, "COMMON~1"))), 0);
	CHECK_IS(name_table_add(&table, 41, typed(FILE_NAME_DOS, plainly_named(30, "ONLY~1"))), 0);
	CHECK_IS(name_table_add(&table, 42, typed(FILE_NAME_DOS, plainly_named(40, "LATER~1"))), 0);
	CHECK_IS(name_table_add(&table, 43, typed(FILE_NAME_POSIX, plainly_named(41, "x"))), 0);
	CHECK_IS(name_table_add(&table, 42, typed(FILE_NAME_POSIX, plainly_named(40, "Much later"))), 0);
	CHECK_IS(name_table_add(&table, 42, typed(FILE_NAME_POSIX, plainly_named(30, "Another"))), 0);
	typed(FILE_NAME_POSIX, NULL);
	name_table_sort(&table);
	CHECK_IS(table.count, 6);
	expect_path(&table, plainly_named(29, "f"), 600, "\\Before\\f");
	expect_path(&table, plainly_named(30, "f"), 600, "\\Program Files\\f");
	expect_path(&table, plainly_named(40, "f"), 600, "\\Program Files\\Common Files\\f");
	expect_path(&table, plainly_named(41, "f"), 600, "\\Program Files\\ONLY~1\\f");
	expect_path(&table, plainly_named(42, "f"), 600, "\\Program Files\\Common Files\\Much later\\f");
	expect_path(&table, plainly_named(43, "f"), 600, "\\Program Files\\ONLY~1\\x\\f");
	name_table_free(&table);
}

static void expect_text(const uint16_t *units, size_t count, const char *text)
{
	char found[800];
	CHECK_IS(name_to_utf8(units, (unsigned int)count, found, sizeof(found)), strlen(text));
	CHECK(strcmp(found, text) == 0);
}

static void check_units(void)
{
	expect_text((const uint16_t[]){0x41, 0xe4, 0x20ac, 0xd83d, 0xde00}, 5, "A\u00e4\u20ac\U0001f600");
	expect_text((const uint16_t[]){0xd83d, 0x41}, 2, "\ufffdA");
	expect_text((const uint16_t[]){0xde00, 0xd83d}, 2, "\ufffd\ufffd");
	expect_text((const uint16_t[]){0x41, 0, 0x42}, 3,
	            "A\ufffd"
	            "B");
	expect_text((const uint16_t[]){0xffff, 0xfffe}, 2, "\uffff\ufffe");
}

int main(void)
{
	check_paths();
	check_dos_names();
	check_units();
	return 0;
}

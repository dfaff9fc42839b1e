/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The page number that no page has, the name, its length, the sum of its bytes and the magic of every journal: see
 * writeSuperJournal() in SQLite's pager.c.
 */
#include "super_journal.h"

#include <string.h>

static void put_u32(uint8_t *out, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		out[i] = (uint8_t)(value >> (24 - 8 * i));
}

size_t super_journal_record(uint8_t *out, const char *name)
{
	static const uint8_t magic[] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
	size_t length = strlen(name);
	uint32_t sum = 0;

	for (size_t i = 0; i < length; i++)
		sum += (uint32_t)name[i];
	put_u32(out, 0x40000000 / 4096 + 1);
	memcpy(out + 4, name, length);
	put_u32(out + 4 + length, (uint32_t)length);
	put_u32(out + 8 + length, sum);
	memcpy(out + 12 + length, magic, sizeof magic);
	return SUPER_JOURNAL_RECORD(length);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "memory_fault.h"

#include <sqlite3.h>
#include <stdint.h>

#include "check.h"

static sqlite3_mem_methods memory;
static size_t at = SIZE_MAX, requests;
static bool ever_after;

static bool fails(void)
{
	size_t number = requests++;

	return number == at || (number > at && ever_after);
}

static void *allocate(int size)
{
	return fails() ? NULL : memory.xMalloc(size);
}

static void *resize(void *block, int size)
{
	return fails() ? NULL : memory.xRealloc(block, size);
}

void memory_fault_install(void)
{
	sqlite3_mem_methods failing;

	CHECK_IS(sqlite3_config(SQLITE_CONFIG_GETMALLOC, &memory), SQLITE_OK);
	failing = memory;
	failing.xMalloc = allocate;
	failing.xRealloc = resize;
	CHECK_IS(sqlite3_config(SQLITE_CONFIG_MALLOC, &failing), SQLITE_OK);
}

void memory_fault_begin(size_t k, bool ever)
{
	at = k;
	ever_after = ever;
	requests = 0;
}

bool memory_fault_end(void)
{
	bool happened = requests > at;

	at = SIZE_MAX;
	return happened;
}

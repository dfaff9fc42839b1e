/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: an attribute list.
 *
 * Promise: what is parsed and written is parsed to the same, and takes no more bytes than are announced.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "defrag/attr_list.h"
#include "tests/fuzz/fuzz.h"
#include "tests/mapdb/check.h"

static void check_same(const struct list_entry *a, const struct list_entry *b)
{
	CHECK(a->type == b->type && a->record == b->record && a->sequence == b->sequence);
	CHECK(a->instance == b->instance && a->lowest_vcn == b->lowest_vcn && a->name_hash == b->name_hash);
	CHECK(a->name_length == b->name_length && !memcmp(a->name, b->name, 2u * a->name_length));
}

static void check_again(const struct attr_list *list)
{
	size_t size = attr_list_size(list);
	uint8_t *bytes = malloc(size + !size);
	struct attr_list again;
	CHECK(bytes);
	attr_list_write(list, bytes);
	CHECK_IS(attr_list_parse(bytes, size, &again), 0);
	CHECK_IS(again.count, list->count);
	for (size_t i = 0; i < list->count; i++)
		check_same(&list->entries[i], &again.entries[i]);
	attr_list_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct attr_list list;
	uint8_t *bytes = malloc(size + !size);
	CHECK(bytes);
	memcpy(bytes, data, size);
	int r = attr_list_parse(bytes, size, &list);
	CHECK(r == 0 || r == -EUCLEAN);
	if (r == 0)
		check_again(&list);
	attr_list_free(&list);
	return 0;
}

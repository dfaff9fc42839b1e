/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: an MFT record. Byte 0: 1, 2, 4 or 8 sectors in its lowest bits, 4: leave the header as it is instead of
 * putting right what every record has (signature, update sequence, sizes); then the record, filled up with zeros.
 *
 * Promise: a record that passes the check can be read and edited without leaving it, and passes the check again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "defrag/attr_list.h"
#include "defrag/names.h"
#include "defrag/record.h"
#include "tests/fuzz/fuzz.h"
#include "tests/mapdb/check.h"

#define CLUSTERS UINT32_MAX

static void put_header_right(uint8_t *record, uint32_t size)
{
	MFT_RECORD *m = mft_record(record);
	uint32_t usa = 42, sectors = size / 512;
	m->magic = magic_FILE;
	m->usa_ofs = cpu_to_le16((uint16_t)usa);
	m->usa_count = cpu_to_le16((uint16_t)(sectors + 1));
	m->bytes_allocated = cpu_to_le32(size);
	record_protect(record, size);
}

/* Tries to give it the runs that it has, whatever their encoding was, and some more. */
static void edit_runs(uint8_t *record, uint32_t size, ATTR_RECORD *attr)
{
	struct run_list runs = {0}, again = {0};
	uint64_t vcns, vcns_again;
	int r = mapping_pairs_decode((uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr), CLUSTERS, &runs,
	                             &vcns);
	if (r == 0 && vcns < CLUSTERS) {
		uint32_t used = le32_to_cpu(mft_record(record)->bytes_in_use);
		CHECK_IS(record_set_runs(record, attr, runs.runs, runs.count), 0);
		CHECK_IS(le32_to_cpu(mft_record(record)->bytes_in_use), used);
		CHECK_IS(run_list_push(&runs, 7, 1), 0);
		if (record_set_runs(record, attr, runs.runs, runs.count) == 0) {
			CHECK_IS(mapping_pairs_decode((uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr),
			                              CLUSTERS, &again, &vcns_again),
			         0);
			CHECK(vcns_again == vcns + 1);
		}
		CHECK_IS(record_check(record, size), 0);
	}
	run_list_free(&runs);
	run_list_free(&again);
}

static void look_at_list(ATTR_RECORD *attr)
{
	struct attr_list list;
	uint32_t size = le32_to_cpu(attr->value_length);
	uint8_t *bytes = malloc(size + 1);
	CHECK(bytes);
	memcpy(bytes, attr_value(attr), size);
	if (attr_list_parse(bytes, size, &list) == 0)
		attr_list_free(&list);
}

static void look_at_names(uint8_t *record)
{
	struct name_table table = {0};
	char path[300];
	const FILE_NAME_ATTR *name = record_file_name(record);
	if (!name)
		return;
	for (uint32_t i = 5; i < 8; i++)
		CHECK_IS(name_table_add(&table, i, name), 0);
	name_table_path(&table, name, path, sizeof(path));
	CHECK(strlen(path) < sizeof(path));
	name_table_free(&table);
}

static void edit(uint8_t *record, uint32_t size)
{
	look_at_names(record);
	record_for_each(attr, record)
	{
		attr_name_hash(attr_name(attr), attr->name_length);
		if (attr->non_resident)
			edit_runs(record, size, attr);
		else if (attr->type == AT_ATTRIBUTE_LIST)
			look_at_list(attr);
	}
	for (ATTR_RECORD *attr; (attr = record_next(record, NULL));) {
		if (record_resize_attr(record, attr, le32_to_cpu(attr->length) + 8) == 0)
			CHECK_IS(record_check(record, size), 0);
		record_remove_attr(record, attr);
		CHECK_IS(record_check(record, size), 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_Alignas(8) static uint8_t bytes[4096];
	struct input input = input_of(data, size);
	uint8_t options = (uint8_t)take(&input, 1);
	uint32_t record_size = 512u << (options & 3);
	uint8_t *record = aligned_alloc(8, record_size); /* so that a sanitizer sees its end */
	CHECK(record);
	memset(bytes, 0, sizeof(bytes));
	memcpy(bytes, input.at, input_left(&input) < record_size ? input_left(&input) : record_size);
	memcpy(record, bytes, record_size);
	if (!(options & 4))
		put_header_right(record, record_size);
	memcpy(bytes, record, record_size);
	if (record_unprotect(record, record_size) == 0) {
		if (record_check(record, record_size) == 0)
			edit(record, record_size);
		memcpy(record, bytes, record_size);
		record_unprotect(record, record_size);
		record_protect(record, record_size);
		CHECK(!memcmp(record, bytes, record_size));
	}
	free(record);
	return 0;
}

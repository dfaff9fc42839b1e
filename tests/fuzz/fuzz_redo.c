/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: a blob of redo, as in a row of the table. Bytes 0 and 1: the size of the data file.
 *
 * Promise: a blob that is damaged, or reaches past the data file, writes nothing. Otherwise the data file looks
 * afterwards as it did before through the overlay, if entries do not overlap; and what is read of a blob can be put
 * into one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mapdb/redo.h"
#include "tests/fuzz/fuzz.h"
#include "tests/mapdb/check.h"

#define DATA_MAX 65536u

static uint8_t applied[DATA_MAX], overlaid[DATA_MAX], before[DATA_MAX];
static uint64_t data_size;
static unsigned int writes;

static ssize_t data_pread(const struct io *io, int fd, void *buffer, size_t length, uint64_t off)
{
	(void)io, (void)fd;
	if (off >= data_size)
		return 0;
	if (length > data_size - off)
		length = data_size - off;
	memcpy(buffer, applied + off, length);
	return (ssize_t)length;
}

static ssize_t data_pwrite(const struct io *io, int fd, const void *buffer, size_t length, uint64_t off)
{
	(void)io, (void)fd;
	writes++;
	CHECK(off <= data_size && length <= data_size - off);
	memcpy(applied + off, buffer, length);
	return (ssize_t)length;
}

static void check_overlay(const uint8_t *blob, size_t size, bool sound)
{
	struct redo_overlay *overlay;
	CHECK_IS(redo_overlay_new(&overlay), 0);
	int r = redo_overlay_add(overlay, blob, size);
	CHECK(r == 0 || (r == -EUCLEAN && !sound));
	if (r == 0 && redo_overlay_seal(overlay) == 0 && sound) {
		for (uint64_t off = 0; off < data_size; off += 1000)
			redo_overlay_patch(overlay, off, overlaid + off,
			                   data_size - off < 1000 ? data_size - off : 1000);
		CHECK(!memcmp(applied, overlaid, data_size));
		CHECK(redo_overlay_blocks(overlay, 4096) <= DATA_MAX / 4096);
	}
	redo_overlay_free(overlay);
}

static void check_put(const uint8_t *blob, size_t size)
{
	static struct redo_blob again;
	struct redo_entry entry;
	size_t pos = 0;
	again.size = 0;
	while (redo_next(blob, size, &pos, &entry) == 1) {
		size_t put = redo_blob_put(&again, entry.host_off, entry.bytes, (uint8_t)entry.fill, entry.length);
		CHECK_IS(put, entry.length);
	}
	CHECK(again.size == size && !memcmp(again.data, blob, size));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct io io = {.pread = data_pread, .pwrite = data_pwrite};
	struct input input = input_of(data, size);
	data_size = take(&input, 2);
	size_t blob_size = input_left(&input);
	if (blob_size > REDO_BLOB_SIZE_MAX)
		return 0;
	for (size_t i = 0; !before[1] && i < DATA_MAX; i++)
		before[i] = (uint8_t)(i * 7 + i / 251);
	memcpy(applied, before, DATA_MAX);
	memcpy(overlaid, before, DATA_MAX);
	writes = 0;
	bool sound = redo_check_blob(data_size, input.at, blob_size) == 0;
	CHECK_IS(redo_apply_blob(&io, -1, data_size, input.at, blob_size), sound ? 0 : -EUCLEAN);
	CHECK(sound || !writes);
	check_overlay(input.at, blob_size, sound);
	if (sound)
		check_put(input.at, blob_size);
	return 0;
}

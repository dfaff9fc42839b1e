/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: what goes into blobs comes out of them; applied to a file and seen through an overlay it gives the same
 * bytes as a plain array does; no sequence of bytes makes the reader leave the blob or the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "mapdb/redo.h"

#define FILE_SIZE (1024u * 1024)
#define BLOCK     4096u /* a size of blocks to count */
#define ROUNDS    60
#define FUZZ      20000

static uint8_t model[FILE_SIZE], before[FILE_SIZE], got[FILE_SIZE], bytes[FILE_SIZE];

static void hand_on(int fd, struct redo_blob *blob, struct redo_overlay *overlay)
{
	CHECK_IS(redo_check_blob(FILE_SIZE, blob->data, blob->size), 0);
	CHECK_IS(redo_overlay_add(overlay, blob->data, blob->size), 0);
	CHECK_IS(redo_apply_blob(&io_posix, fd, FILE_SIZE, blob->data, blob->size), 0);
	blob->size = 0;
}

/* Puts one change, with as many blobs as it takes. */
static void put(int fd, struct redo_blob *blob, struct redo_overlay *overlay, uint64_t off, size_t length, bool literal)
{
	uint8_t fill = (uint8_t)random_below(256);
	size_t done = 0;

	if (literal)
		random_bytes(bytes, length);
	else
		memset(bytes, fill, length);
	memcpy(model + off, bytes, length);
	while (done < length) {
		size_t n = redo_blob_put(blob, off + done, literal ? bytes + done : NULL, fill, length - done);

		done += n;
		if (done < length)
			hand_on(fd, blob, overlay);
	}
}

static void check_round(int dir_fd)
{
	static struct redo_blob blob;
	struct redo_overlay *overlay;
	uint64_t off = random_below(600), blocks = 0;
	bool touched[FILE_SIZE / BLOCK + 1] = {false};
	size_t spread = (size_t)1 << random_below(17);

	write_file(dir_fd, "data", before, sizeof before);
	int fd = openat(dir_fd, "data", O_RDWR);
	memcpy(model, before, sizeof model);
	CHECK_IS(redo_overlay_new(&overlay), 0);
	while (off < FILE_SIZE) {
		size_t length = 1 + random_below(random_below(8) ? 64 : 100000);

		length = length < FILE_SIZE - off ? length : FILE_SIZE - off;
		put(fd, &blob, overlay, off, length, random_below(2));
		for (uint64_t i = off / BLOCK; i <= (off + length - 1) / BLOCK; i++)
			touched[i] = true;
		off += length + random_below(spread);
	}
	for (size_t i = 0; i <= FILE_SIZE / BLOCK; i++)
		blocks += touched[i];
	hand_on(fd, &blob, overlay);
	CHECK_IS(redo_overlay_seal(overlay), 0);
	CHECK_IS(redo_overlay_blocks(overlay, BLOCK), blocks);
	CHECK_IS(pread(fd, got, sizeof got, 0), sizeof got);
	CHECK(!memcmp(got, model, sizeof got));

	for (uint64_t pos = 0; pos < FILE_SIZE;) {
		size_t length = 1 + random_below(20000);

		length = length < FILE_SIZE - pos ? length : FILE_SIZE - pos;
		memcpy(got, before + pos, length);
		redo_overlay_patch(overlay, pos, got, length);
		CHECK(!memcmp(got, model + pos, length));
		pos += length;
	}
	redo_overlay_free(overlay);
	close(fd);
}

static void check_blob_limits(void)
{
	static struct redo_blob blob;
	static uint8_t much[2 * REDO_BLOB_SIZE_MAX];
	struct redo_entry entry;
	size_t pos = 0;

	CHECK_IS(redo_blob_put(&blob, 7, much, 0, sizeof much), REDO_BLOB_SIZE_MAX - REDO_ENTRY_HEADER_SIZE);
	CHECK_IS(redo_blob_put(&blob, 7, much, 0, 1), 0);
	CHECK_IS(redo_next(blob.data, blob.size, &pos, &entry), 1);
	CHECK_IS(entry.length, REDO_BLOB_SIZE_MAX - REDO_ENTRY_HEADER_SIZE);
	CHECK_IS(redo_next(blob.data, blob.size, &pos, &entry), 0);
	CHECK_IS(redo_check_blob(1000, blob.data, blob.size), -EUCLEAN); /* ends past the file */

	blob.size = 0;
	CHECK_IS(redo_blob_put(&blob, 0, NULL, 9, (size_t)UINT32_MAX + 5), UINT32_MAX);
	CHECK_IS(blob.size, REDO_ENTRY_HEADER_SIZE);
	blob.data[12] = 0; /* fill 0x100 */
	blob.data[13] = 1;
	pos = 0;
	CHECK_IS(redo_next(blob.data, blob.size, &pos, &entry), -EUCLEAN);
}

static void check_overlap_refused(void)
{
	static struct redo_blob blob;
	struct redo_overlay *overlay;

	blob.size = 0;
	redo_blob_put(&blob, 100, NULL, 1, 10);
	redo_blob_put(&blob, 109, NULL, 2, 10);
	CHECK_IS(redo_overlay_new(&overlay), 0);
	CHECK_IS(redo_overlay_add(overlay, blob.data, blob.size), 0);
	CHECK_IS(redo_overlay_seal(overlay), -EUCLEAN);
	redo_overlay_free(overlay);
	redo_overlay_free(NULL);
}

/* The blob is copied to memory of exactly its size, so that a sanitizer sees one byte too many. */
static void check_fuzz(int dir_fd)
{
	int fd = openat(dir_fd, "data", O_RDWR);

	for (int i = 0; i < FUZZ; i++) {
		static struct redo_blob blob;

		blob.size = 0;
		for (int n = 1 + (int)random_below(5); n > 0; n--)
			redo_blob_put(&blob, random_below(FILE_SIZE), random_below(2) ? bytes : NULL, 5,
			              1 + random_below(200));
		size_t size = blob.size - random_below(blob.size);
		uint8_t *copy = malloc(size);
		memcpy(copy, blob.data, size);
		for (int n = (int)random_below(3); n > 0; n--)
			copy[random_below(size)] ^= (uint8_t)(1u << random_below(8));

		int checked = redo_check_blob(FILE_SIZE, copy, size);
		CHECK(checked == 0 || checked == -EUCLEAN);
		CHECK_IS(redo_apply_blob(&io_posix, fd, FILE_SIZE, copy, size), checked);
		free(copy);
	}
	CHECK_IS(lseek(fd, 0, SEEK_END), FILE_SIZE);
	close(fd);
}

int main(void)
{
	random_start();
	int dir_fd = scratch_directory();

	check_blob_limits();
	check_overlap_refused();
	random_bytes(before, sizeof before);
	for (int i = 0; i < ROUNDS; i++)
		check_round(dir_fd);
	check_fuzz(dir_fd);
	return 0;
}

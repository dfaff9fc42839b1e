/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/changes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define UNIFORM_MIN 64u /* equal bytes in a row that are worth an entry of their own */

void changes_free(struct changes *changes)
{
	for (size_t i = 0; i < changes->count; i++)
		free(changes->blobs[i].data);
	free(changes->blobs);
	changes->blobs = NULL;
	changes->count = changes->capacity = 0;
}

int changes_finish(struct changes *changes)
{
	struct redo_blob *open = &changes->open;
	if (!open->size)
		return 0;
	if (changes->count == changes->capacity) {
		size_t capacity = changes->capacity * 2 + 16;
		void *grown = reallocarray(changes->blobs, capacity, sizeof(*changes->blobs));
		if (!grown)
			return -ENOMEM;
		changes->blobs = grown;
		changes->capacity = capacity;
	}
	uint8_t *data = malloc(open->size);
	if (!data)
		return -ENOMEM;
	memcpy(data, open->data, open->size);
	changes->blobs[changes->count++] = (struct packed_blob){.data = data, .size = open->size};
	open->size = 0;
	return 0;
}

static int put_host(struct changes *changes, uint64_t host_off, const uint8_t *bytes, uint8_t fill, size_t length)
{
	changes->bytes += length;
	while (length) {
		size_t done = redo_blob_put(&changes->open, host_off, bytes, fill, length);
		if (done < length) {
			int r = changes_finish(changes);
			if (r < 0)
				return r;
		}
		host_off += done;
		length -= done;
		if (bytes)
			bytes += done;
	}
	return 0;
}

static int put_piece(struct changes *changes, const struct view *view, uint64_t off, const uint8_t *bytes, uint8_t fill,
                     size_t length)
{
	while (length) {
		struct extent extent;
		image_map_lookup(view->map, view->off + off, length, &extent);
		int r = put_host(changes, extent.host_off, bytes, fill, extent.length);
		if (r < 0)
			return r;
		off += extent.length;
		length -= extent.length;
		if (bytes)
			bytes += extent.length;
	}
	return 0;
}

static size_t uniform_length(const uint8_t *bytes, size_t length)
{
	size_t same = 1;
	while (same < length && bytes[same] == bytes[0])
		same++;
	return same;
}

/* Volume bytes [off, off + length) become bytes. */
static int put(struct changes *changes, const struct view *view, uint64_t off, const uint8_t *bytes, size_t length)
{
	size_t literal = 0;
	for (size_t pos = 0; pos < length;) {
		size_t same = uniform_length(bytes + pos, length - pos);
		pos += same;
		if (same < UNIFORM_MIN && pos < length)
			continue;
		size_t fill = same < UNIFORM_MIN ? 0 : same, end = pos - fill;
		int r = put_piece(changes, view, off + literal, bytes + literal, 0, end - literal);
		if (r == 0)
			r = put_piece(changes, view, off + end, NULL, bytes[pos - 1], fill);
		if (r < 0)
			return r;
		literal = pos;
	}
	return 0;
}

/* The first byte from pos on that differs; most do not. */
static size_t find_difference(const uint8_t *before, const uint8_t *after, size_t pos, size_t length)
{
	uint64_t x, y;
	for (; length - pos >= sizeof(x); pos += sizeof(x)) {
		memcpy(&x, before + pos, sizeof(x));
		memcpy(&y, after + pos, sizeof(y));
		if (x != y)
			break;
	}
	while (pos < length && before[pos] == after[pos])
		pos++;
	return pos;
}

/* The end of the difference that begins at start: it goes on over equal bytes that cost less than another entry. */
static size_t difference_end(const uint8_t *before, const uint8_t *after, size_t start, size_t length)
{
	size_t end = start + 1;
	for (size_t i = end; i < length && i - end < REDO_ENTRY_HEADER_SIZE; i++)
		if (before[i] != after[i])
			end = i + 1;
	return end;
}

int changes_diff(struct changes *changes, const struct view *view, const struct run_index *runs, uint32_t cluster_size,
                 uint64_t off, const uint8_t *before, const uint8_t *after, size_t length)
{
	for (size_t pos = 0; (pos = find_difference(before, after, pos, length)) < length;) {
		size_t end = difference_end(before, after, pos, length);
		while (pos < end) {
			uint64_t vcn = (off + pos) / cluster_size, within = (off + pos) % cluster_size;
			struct run run = run_index_lookup(runs, vcn);
			uint64_t here = run.length * cluster_size - within;
			if (here > end - pos)
				here = end - pos;
			if (run.lcn == RUN_HOLE)
				return -EUCLEAN;
			int r = put(changes, view, run.lcn * cluster_size + within, after + pos, here);
			if (r < 0)
				return r;
			pos += here;
		}
	}
	return 0;
}

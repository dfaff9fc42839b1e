/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * redo: reading, writing and applying blobs of differences, and the overlay that shows them unapplied.
 */
#include "mapdb/redo.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "mapdb/cleanup.h"
#include "mapdb/image_map.h"

static void put_header(uint8_t *to, uint64_t host_off, uint32_t length, uint32_t fill)
{
	uint64_t off_le = htole64(host_off);
	uint32_t length_le = htole32(length), fill_le = htole32(fill);

	memcpy(to, &off_le, sizeof off_le);
	memcpy(to + 8, &length_le, sizeof length_le);
	memcpy(to + 12, &fill_le, sizeof fill_le);
}

size_t redo_blob_put(struct redo_blob *blob, uint64_t host_off, const uint8_t *bytes, uint8_t fill, size_t length)
{
	size_t room = sizeof blob->data - blob->size;

	if (length == 0 || room < REDO_ENTRY_HEADER_SIZE)
		return 0;
	room -= REDO_ENTRY_HEADER_SIZE;

	size_t limit = bytes ? room : UINT32_MAX;
	size_t taken = length < limit ? length : limit;
	if (taken == 0)
		return 0;
	put_header(blob->data + blob->size, host_off, (uint32_t)taken, bytes ? REDO_LITERAL : fill);
	blob->size += REDO_ENTRY_HEADER_SIZE;
	if (bytes) {
		memcpy(blob->data + blob->size, bytes, taken);
		blob->size += taken;
	}
	return taken;
}

int redo_next(const uint8_t *blob, size_t size, size_t *pos, struct redo_entry *entry)
{
	uint64_t off_le;
	uint32_t length_le, fill_le;

	if (*pos == size)
		return 0;
	if (*pos > size || size - *pos < REDO_ENTRY_HEADER_SIZE)
		return -EUCLEAN;
	memcpy(&off_le, blob + *pos, sizeof off_le);
	memcpy(&length_le, blob + *pos + 8, sizeof length_le);
	memcpy(&fill_le, blob + *pos + 12, sizeof fill_le);
	*entry = (struct redo_entry){
	        .host_off = le64toh(off_le), .length = le32toh(length_le), .fill = le32toh(fill_le)};

	size_t start = *pos + REDO_ENTRY_HEADER_SIZE;
	if (entry->length == 0 || entry->host_off > IMAGE_MAP_OFF_MAX - entry->length)
		return -EUCLEAN;
	if (entry->fill == REDO_LITERAL) {
		if (size - start < entry->length)
			return -EUCLEAN;
		entry->bytes = blob + start;
		start += entry->length;
	} else if (entry->fill > UINT8_MAX) {
		return -EUCLEAN;
	}
	*pos = start;
	return 1;
}

/* Entries are small and often neighbours (the records of one MFT fragment), so they are patched into a window that is
 * read once and written once. The window grows page by page and never spans a page without a change: such a page may be
 * a hole. */
#define WINDOW_SIZE (256u * 1024)
#define WINDOW_PAGE 4096u

struct window {
	const struct io *io;
	int fd;
	uint64_t off;   /* first byte */
	size_t length;  /* bytes in use; 0: empty */
	uint8_t *bytes; /* WINDOW_SIZE */
};

static int window_flush(struct window *window)
{
	size_t length = window->length;

	window->length = 0;
	return length ? io_pwrite_full(window->io, window->fd, window->bytes, length, window->off) : 0;
}

/* Reads what lies between the window's end and off, which is where the next change begins. */
static int window_bridge(struct window *window, uint64_t off)
{
	uint64_t end = window->off + window->length;

	if (off <= end)
		return 0;
	int rc = io_pread_full(window->io, window->fd, window->bytes + window->length, (size_t)(off - end), end);
	if (rc == 0)
		window->length += (size_t)(off - end);
	return rc;
}

static bool window_reaches(const struct window *window, uint64_t off)
{
	uint64_t end = window->off + window->length;

	return window->length > 0 && off >= window->off && off - window->off < WINDOW_SIZE &&
	       (off <= end || off / WINDOW_PAGE <= (end - 1) / WINDOW_PAGE + 1);
}

static int window_put(struct window *window, const struct redo_entry *entry)
{
	uint64_t off = entry->host_off;
	size_t done = 0;

	while (done < entry->length) {
		int rc = window_reaches(window, off) ? window_bridge(window, off) : window_flush(window);
		if (rc < 0)
			return rc;
		if (window->length == 0)
			window->off = off;

		size_t into = (size_t)(off - window->off);
		size_t n = WINDOW_SIZE - into;
		if (n > entry->length - done)
			n = entry->length - done;
		if (entry->bytes)
			memcpy(window->bytes + into, entry->bytes + done, n);
		else
			memset(window->bytes + into, (int)entry->fill, n);
		if (into + n > window->length)
			window->length = into + n;
		off += n;
		done += n;
	}
	return 0;
}

int redo_check_blob(uint64_t data_size, const uint8_t *blob, size_t size)
{
	struct redo_entry entry;
	size_t pos = 0;
	int rc;

	while ((rc = redo_next(blob, size, &pos, &entry)) > 0) {
		if (entry.host_off > data_size || entry.length > data_size - entry.host_off)
			return -EUCLEAN;
	}
	return rc;
}

int redo_apply_blob(const struct io *io, int data_fd, uint64_t data_size, const uint8_t *blob, size_t size)
{
	cleanup_free uint8_t *bytes = malloc(WINDOW_SIZE);
	struct window window = {.io = io, .fd = data_fd, .bytes = bytes};
	struct redo_entry entry;
	size_t pos = 0;

	if (!bytes)
		return -ENOMEM;
	int rc = redo_check_blob(data_size, blob, size);
	if (rc < 0)
		return rc;
	while ((rc = redo_next(blob, size, &pos, &entry)) > 0) {
		rc = window_put(&window, &entry);
		if (rc < 0)
			return rc;
	}
	return rc < 0 ? rc : window_flush(&window);
}

/* A copy of a blob; freed with the overlay. */
struct overlay_blob {
	struct overlay_blob *next;
	uint8_t data[];
};

struct redo_overlay {
	size_t count, capacity;
	struct redo_entry *entries; /* their bytes are inside the blobs */
	struct overlay_blob *blobs;
};

int redo_overlay_new(struct redo_overlay **out)
{
	*out = calloc(1, sizeof **out);
	return *out ? 0 : -ENOMEM;
}

void redo_overlay_free(struct redo_overlay *overlay)
{
	if (!overlay)
		return;
	for (struct overlay_blob *blob = overlay->blobs, *next; blob; blob = next) {
		next = blob->next;
		free(blob);
	}
	free(overlay->entries);
	free(overlay);
}

static int overlay_append(struct redo_overlay *overlay, const struct redo_entry *entry)
{
	if (overlay->count == overlay->capacity) {
		size_t capacity = overlay->capacity ? overlay->capacity * 2 : 64;
		struct redo_entry *entries = reallocarray(overlay->entries, capacity, sizeof *entries);

		if (!entries)
			return -ENOMEM;
		overlay->entries = entries;
		overlay->capacity = capacity;
	}
	overlay->entries[overlay->count++] = *entry;
	return 0;
}

int redo_overlay_add(struct redo_overlay *overlay, const uint8_t *blob, size_t size)
{
	struct overlay_blob *copy = malloc(sizeof *copy + size);
	struct redo_entry entry;
	size_t pos = 0;
	int rc;

	if (!copy)
		return -ENOMEM;
	if (size > 0)
		memcpy(copy->data, blob, size);
	copy->next = overlay->blobs;
	overlay->blobs = copy;
	while ((rc = redo_next(copy->data, size, &pos, &entry)) > 0) {
		rc = overlay_append(overlay, &entry);
		if (rc < 0)
			return rc;
	}
	return rc;
}

static int compare_overlay_entries(const void *a, const void *b)
{
	const struct redo_entry *x = a, *y = b;

	return x->host_off < y->host_off ? -1 : x->host_off > y->host_off;
}

int redo_overlay_seal(struct redo_overlay *overlay)
{
	struct redo_entry *entries = overlay->entries;

	if (overlay->count > 1)
		qsort(entries, overlay->count, sizeof *entries, compare_overlay_entries);
	for (size_t i = 0; i + 1 < overlay->count; i++) {
		if (entries[i + 1].host_off - entries[i].host_off < entries[i].length)
			return -EUCLEAN;
	}
	return 0;
}

void redo_overlay_patch(const struct redo_overlay *overlay, uint64_t host_off, uint8_t *buffer, size_t length)
{
	size_t low = 0, high = overlay->count; /* the first entry that ends after host_off */

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct redo_entry *entry = &overlay->entries[middle];

		if (entry->host_off + entry->length <= host_off)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < overlay->count; low++) {
		const struct redo_entry *entry = &overlay->entries[low];
		uint64_t skip = entry->host_off < host_off ? host_off - entry->host_off : 0;
		uint64_t into = entry->host_off < host_off ? 0 : entry->host_off - host_off;

		if (into >= length)
			break;
		size_t n =
		        entry->length - skip < length - into ? (size_t)(entry->length - skip) : length - (size_t)into;
		if (entry->bytes)
			memcpy(buffer + into, entry->bytes + skip, n);
		else
			memset(buffer + into, (int)entry->fill, n);
	}
}

uint64_t redo_overlay_blocks(const struct redo_overlay *overlay, uint64_t block_size)
{
	uint64_t blocks = 0, next = 0; /* the first block that is not counted yet */

	for (size_t i = 0; i < overlay->count; i++) {
		const struct redo_entry *entry = &overlay->entries[i];
		uint64_t first = entry->host_off / block_size;
		uint64_t end = (entry->host_off + entry->length - 1) / block_size + 1;

		if (first < next)
			first = next;
		if (end > first) {
			blocks += end - first;
			next = end;
		}
	}
	return blocks;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * redo: differences to the host's data file, packed into blobs; undo has the same form.
 *
 * A blob is a sequence of entries, little-endian, without padding:
 *
 *     u64  host_off   first byte in the data file
 *     u32  length     bytes; at least 1
 *     u32  fill       0xffffffff: length literal bytes follow; 0 to 255: all bytes have this value, nothing follows
 *     u8[] bytes      the literal bytes
 *
 * Host offsets, not guest offsets: a guest pass moves no data, so the host place of a metadata byte is the same before and
 * after it, and redo needs no map to be applied. Blobs come from a database that may be damaged or foreign: reading one
 * checks every length. Nothing here does I/O, except redo_apply_blob.
 */
#ifndef ZCFS_REDO_H
#define ZCFS_REDO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mapdb/io.h"

#define REDO_BLOB_SIZE_MAX (64u * 1024) /* bytes; what redo_blob_put fills a blob up to */
#define REDO_ENTRY_HEADER_SIZE 16u	/* bytes */
#define REDO_LITERAL UINT32_MAX

struct redo_entry {
	uint64_t host_off;
	uint32_t length;      /* bytes changed */
	uint32_t fill;	      /* REDO_LITERAL or the value of every byte */
	const uint8_t *bytes; /* literal bytes, inside the blob; NULL for a fill */
};

/* A blob being filled. Zero-initialised is empty; the storage is inside. */
struct redo_blob {
	size_t size; /* bytes used */
	uint8_t data[REDO_BLOB_SIZE_MAX];
};

/* Appends as much of the change as fits. bytes == NULL: a fill with value fill (length up to UINT32_MAX costs only the header).
 * Returns how many of the length bytes went in: less than length (possibly 0) means the blob is full: hand it on, set size
 * to 0, go on with the rest. */
size_t redo_blob_put(struct redo_blob *blob, uint64_t host_off, const uint8_t *bytes, uint8_t fill, size_t length);

/* Reads the entry at *pos and advances *pos. 1: an entry; 0: the end; -EUCLEAN: the blob is damaged. */
int redo_next(const uint8_t *blob, size_t size, size_t *pos, struct redo_entry *entry);

/* 0 if the blob is well formed and no entry ends past data_size; else -EUCLEAN. */
int redo_check_blob(uint64_t data_size, const uint8_t *blob, size_t size);

/* Writes one blob's entries to the data file. -EUCLEAN if damaged or if an entry ends past data_size: checked for the whole
 * blob before the first write. Does not sync. */
int redo_apply_blob(const struct io *io, int data_fd, uint64_t data_size, const uint8_t *blob, size_t size);

/* An ordered set of entries to look at the data file as if they were applied. */
struct redo_overlay;
int redo_overlay_new(struct redo_overlay **out);
void redo_overlay_free(struct redo_overlay *overlay);
/* Adds a copy of a blob's entries. Entries must not overlap. */
int redo_overlay_add(struct redo_overlay *overlay, const uint8_t *blob, size_t size);
/* Call once after the last add and before the first patch: sorts. -ENOMEM, -EUCLEAN if entries overlap. */
int redo_overlay_seal(struct redo_overlay *overlay);
/* Changes buffer, which holds the data file's [host_off, host_off + length), to what it will be. Any thread. */
void redo_overlay_patch(const struct redo_overlay *overlay, uint64_t host_off, uint8_t *buffer, size_t length);
/* How many blocks of the data file, of so many bytes each, would change. After seal. */
uint64_t redo_overlay_blocks(const struct redo_overlay *overlay, uint64_t block_size);

#endif

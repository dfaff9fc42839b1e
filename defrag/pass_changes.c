/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the child of a guest pass wants changed: moves, and bytes of metadata. All of it lies in volumes that may be
 * changed, and goes into the one transaction, with the bytes that undo brings back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "defrag/pass_internal.h"

#define UNDO_PIECE 16384u /* bytes of one change that are handled together; fits a blob with room to spare */

int pass_begin(struct pass *p)
{
	if (p->options->find_free)
		return -EBADMSG; /* nothing of that was asked for */
	if (p->options->dry_run)
		return image_may_adopt(p->image);
	if (p->begun || pass_only_looks(p))
		return 0;
	int r = image_begin(p->image);
	if (r < 0)
		return r;
	p->begun = true;
	struct run_record run = run_record_of(p);
	return map_db_put_run(p->image->db, &run);
}

/* True if [off, off + length) lies in one of the volumes that may be changed. */
static bool in_a_volume(const struct pass *p, uint64_t off, uint64_t length)
{
	for (size_t i = 0; i < p->report->volume_count; i++) {
		const struct volume_report *volume = &p->report->volumes[i];
		if (volume->result == VOLUME_DONE && off >= volume->off && off - volume->off <= volume->length &&
		    length <= volume->length - (off - volume->off))
			return true;
	}
	return false;
}

int take_moves(struct pass *p, const uint8_t *payload, size_t size)
{
	size_t count = size / sizeof(struct map_move);
	if (!count || size % sizeof(struct map_move))
		return -EBADMSG;
	if (p->move_capacity - p->move_count < count) {
		size_t capacity = p->move_capacity + p->move_capacity / 2 + count;
		void *grown = reallocarray(p->moves, capacity, sizeof(*p->moves));
		if (!grown)
			return -ENOMEM;
		p->moves = grown;
		p->move_capacity = capacity;
	}
	memcpy(p->moves + p->move_count, payload, size);
	for (size_t i = 0; i < count; i++, p->move_count++) {
		const struct map_move *move = &p->moves[p->move_count];
		if (!in_a_volume(p, move->new_off, move->length) || !in_a_volume(p, move->old_off, move->length))
			return -EBADMSG;
		/* No byte moves twice, so an endless stream of moves is noticed before it fills the memory. */
		p->bytes_moved += move->length;
		if (move->length < IMAGE_MAP_UNIT || p->bytes_moved > image_map_size(p->image->map))
			return -EBADMSG;
	}
	return pass_begin(p);
}

/* ---- redo and undo ---- */

int flush_redo(struct pass *p)
{
	int r = p->redo.size ? map_db_put_redo(p->image->db, &p->redo, &p->undo) : 0;
	p->redo.size = p->undo.size = 0;
	return r;
}

/* What is at [off, off + length) of the data file now. */
static int read_old(struct pass *p, uint64_t off, size_t length, const uint8_t **bytes)
{
	if (off < p->window_off || off + length > p->window_off + p->window_length) {
		p->window_off = off & ~(uint64_t)4095;
		p->window_length = WINDOW_SIZE;
		int r = io_pread_full(p->image->io, p->image->data_fd, p->window, WINDOW_SIZE, p->window_off);
		if (r < 0) {
			p->window_length = 0;
			return r;
		}
	}
	*bytes = p->window + (off - p->window_off);
	return 0;
}

static bool is_uniform(const uint8_t *bytes, size_t length)
{
	return length > 1 && !memcmp(bytes, bytes + 1, length - 1);
}

/* One piece of a change and what it replaces; both blobs are handed on when either is nearly full. */
static int put_change(struct pass *p, uint64_t host_off, const uint8_t *bytes, uint8_t fill, size_t length)
{
	const uint8_t *old;
	int r = read_old(p, host_off, length, &old);
	if (r == 0 && (p->redo.size + REDO_ENTRY_HEADER_SIZE + length > REDO_BLOB_SIZE_MAX ||
	               p->undo.size + REDO_ENTRY_HEADER_SIZE + length > REDO_BLOB_SIZE_MAX))
		r = flush_redo(p);
	if (r < 0)
		return r;
	bool uniform = is_uniform(old, length);
	size_t done = redo_blob_put(&p->redo, host_off, bytes, fill, length);
	size_t kept = redo_blob_put(&p->undo, host_off, uniform ? NULL : old, old[0], length);
	return done == length && kept == length ? 0 : -EBADMSG;
}

/* Every byte of the entry is mapped, and by the map lies in a volume that may be changed. */
static bool entry_is_allowed(const struct pass *p, const struct redo_entry *entry)
{
	uint64_t off = entry->host_off, length = entry->length;
	while (length) {
		struct extent extent;
		if (!host_index_lookup(p->host_index, off, &extent))
			return false;
		uint64_t here = extent.length < length ? extent.length : length;
		if (!in_a_volume(p, extent.guest_off, here))
			return false;
		off += here;
		length -= here;
	}
	return true;
}

int take_redo(struct pass *p, const uint8_t *payload, size_t size)
{
	struct redo_entry entry;
	size_t pos = 0;
	int r = pass_begin(p);
	if (r == 0 && !p->host_index)
		r = host_index_new(p->image->map, &p->host_index);
	while (r == 0 && (r = redo_next(payload, size, &pos, &entry)) == 1) {
		r = entry_is_allowed(p, &entry) ? 0 : -EBADMSG;
		p->report->metadata_bytes += entry.length;
		if (r == 0 && p->report->metadata_bytes > image_map_size(p->image->map))
			r = -EBADMSG;
		for (uint32_t done = 0; r == 0 && done < entry.length;) {
			uint32_t here = entry.length - done < UNDO_PIECE ? entry.length - done : UNDO_PIECE;
			p->report->redo_bytes += REDO_ENTRY_HEADER_SIZE + (entry.bytes ? here : 0);
			if (!pass_only_looks(p))
				r = put_change(p, entry.host_off + done, entry.bytes ? entry.bytes + done : NULL,
				               (uint8_t)entry.fill, here);
			done += here;
		}
	}
	return r == -EUCLEAN ? -EBADMSG : r;
}

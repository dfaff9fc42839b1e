/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/read_ahead.h"

#include <fcntl.h>

#include "fs/map_walk.h"

#define MIB UINT64_C(1048576)

/* Where extents are longer on average, the host's read-ahead is worth more than what it wastes. */
#define EXTENT_MAX (4 * MIB)

/* Where they are shorter, the host reads little that nobody wants, and asking for so many would fill the disk's queue.
 */
#define EXTENT_MIN (MIB / 16)

/* The host is asked for so much, when less than half of that is left. */
#define WINDOW (2 * MIB)

/* Reads of one sequence may come in another order than the guest has sent them, or a second time. */
#define DISORDER MIB

void read_ahead_init(struct read_ahead *self, int data_fd, const struct image_map *map)
{
	size_t count = image_map_count(map);
	uint64_t average = count > 1 ? image_map_size(map) / count : 0;

	atomic_init(&self->next, 0);
	atomic_init(&self->in_sequence, true);
	atomic_init(&self->asked, 0);
	self->wanted =
	        average >= EXTENT_MIN && average < EXTENT_MAX && posix_fadvise(data_fd, 0, 0, POSIX_FADV_RANDOM) == 0;
}

static bool near(uint64_t guest_off, uint64_t next)
{
	return guest_off + DISORDER >= next && guest_off <= next + DISORDER;
}

bool read_ahead_due(struct read_ahead *self, uint64_t guest_off, size_t length)
{
	uint64_t end = guest_off + length, next, asked;

	if (!self->wanted)
		return false;
	next = atomic_exchange_explicit(&self->next, end, memory_order_relaxed);
	if (next != end)
		atomic_store_explicit(&self->in_sequence, near(guest_off, next), memory_order_relaxed);
	asked = atomic_load_explicit(&self->asked, memory_order_relaxed);
	return atomic_load_explicit(&self->in_sequence, memory_order_relaxed) &&
	       (asked < end + WINDOW / 2 || asked > end + WINDOW + DISORDER);
}

void read_ahead_ask(struct read_ahead *self, int data_fd, const struct image_map *map)
{
	uint64_t from = atomic_load_explicit(&self->next, memory_order_relaxed), to = from + WINDOW;
	uint64_t asked = atomic_exchange_explicit(&self->asked, to, memory_order_relaxed), host_off;
	struct map_walk walk;
	size_t length;

	if (asked > from && asked < to)
		from = asked;
	if (to > image_map_size(map))
		to = image_map_size(map);
	if (from >= to)
		return;
	walk = map_walk_begin(map, from, (size_t)(to - from));
	while (map_walk_next(&walk, &host_off, &length))
		posix_fadvise(data_fd, (off_t)host_off, (off_t)length, POSIX_FADV_WILLNEED);
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * host_index: the extents of an image map in the order of their host offsets, for the check that no two share a byte
 * and for the lookup from host to guest. The index costs 4 bytes an extent; making it needs 16 more for a moment.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "mapdb/cleanup.h"
#include "mapdb/image_map_internal.h"

#define RADIX_BITS 11u /* the counters of one pass stay in the first-level cache */
#define RADIX_SIZE (1u << RADIX_BITS)

void radix_sort(uint64_t *keys, uint64_t *scratch, size_t count, unsigned int low_bit, unsigned int high_bit)
{
	uint64_t *from = keys, *to = scratch;

	for (unsigned int bit = low_bit; bit < high_bit; bit += RADIX_BITS) {
		unsigned int width = high_bit - bit < RADIX_BITS ? high_bit - bit : RADIX_BITS;
		uint64_t mask = (UINT64_C(1) << width) - 1;
		size_t start[RADIX_SIZE] = {0};
		size_t sum = 0;

		for (size_t i = 0; i < count; i++)
			start[from[i] >> bit & mask]++;
		for (size_t d = 0; d <= mask; d++) {
			size_t n = start[d];
			start[d] = sum;
			sum += n;
		}
		for (size_t i = 0; i < count; i++)
			to[start[from[i] >> bit & mask]++] = from[i];

		uint64_t *swap = from;
		from = to;
		to = swap;
	}
	if (from != keys)
		memcpy(keys, from, count * sizeof *keys);
}

static unsigned int bit_width(uint64_t value)
{
	return value ? 64 - (unsigned int)__builtin_clzll(value) : 0;
}

static uint64_t extent_length(const struct map_entry *entries, size_t index)
{
	return entries[index + 1].guest_off - entries[index].guest_off;
}

struct host_key {
	uint64_t host_off;
	uint32_t index;
};

static int compare_host_keys(const void *a, const void *b)
{
	const struct host_key *x = a, *y = b;

	return x->host_off < y->host_off ? -1 : x->host_off > y->host_off;
}

/* Offsets near 2^63 in a map of millions of extents: only in tests and damaged databases, so slow is good enough. */
static int host_order_wide(const struct map_entry *entries, size_t count, uint32_t *order)
{
	cleanup_free struct host_key *keys = malloc(count * sizeof *keys);

	if (!keys)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		keys[i] = (struct host_key){.host_off = entries[i].host_off, .index = (uint32_t)i};
	qsort(keys, count, sizeof *keys, compare_host_keys);
	for (size_t i = 0; i < count; i++) {
		if (i + 1 < count && keys[i + 1].host_off - keys[i].host_off < extent_length(entries, keys[i].index))
			return -EUCLEAN;
		if (order)
			order[i] = keys[i].index;
	}
	return 0;
}

/* The usual case: host offset (in units) and index fit one 64-bit key. */
static int host_order_packed(const struct map_entry *entries, size_t count, uint32_t *order, unsigned int index_bits,
                             unsigned int unit_bits)
{
	uint64_t index_mask = (UINT64_C(1) << index_bits) - 1;
	cleanup_free uint64_t *keys = malloc(count * sizeof *keys);
	cleanup_free uint64_t *scratch = malloc(count * sizeof *scratch);

	if (!keys || !scratch)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		keys[i] = entries[i].host_off / IMAGE_MAP_UNIT << index_bits | i;
	radix_sort(keys, scratch, count, index_bits, index_bits + unit_bits);
	for (size_t i = 0; i < count; i++) {
		size_t index = (size_t)(keys[i] & index_mask);

		if (i + 1 < count) {
			uint64_t distance = ((keys[i + 1] >> index_bits) - (keys[i] >> index_bits)) * IMAGE_MAP_UNIT;
			if (distance < extent_length(entries, index))
				return -EUCLEAN;
		}
		if (order)
			order[i] = (uint32_t)index;
	}
	return 0;
}

/* Most maps are in host order already; then there is nothing to sort. */
static bool already_ordered(const struct map_entry *entries, size_t count)
{
	for (size_t i = 0; i + 1 < count; i++) {
		if (entries[i + 1].host_off < entries[i].host_off ||
		    entries[i + 1].host_off - entries[i].host_off < extent_length(entries, i))
			return false;
	}
	return true;
}

int host_order(const struct map_entry *entries, size_t count, uint32_t *order)
{
	uint64_t highest = 0;

	if (already_ordered(entries, count)) {
		for (size_t i = 0; order && i < count; i++)
			order[i] = (uint32_t)i;
		return 0;
	}
	for (size_t i = 0; i < count; i++)
		highest = entries[i].host_off > highest ? entries[i].host_off : highest;

	unsigned int index_bits = bit_width(count - 1);
	unsigned int unit_bits = bit_width(highest / IMAGE_MAP_UNIT);
	if (index_bits + unit_bits > 64)
		return host_order_wide(entries, count, order);
	return host_order_packed(entries, count, order, index_bits, unit_bits);
}

struct host_index {
	struct image_map *map;
	uint32_t order[]; /* extents, by host_off */
};

int host_index_new(struct image_map *map, struct host_index **out)
{
	cleanup_free struct host_index *index = malloc(sizeof *index + map->count * sizeof index->order[0]);

	if (!index)
		return -ENOMEM;
	int rc = host_order(map->entries, map->count, index->order);
	if (rc < 0)
		return rc;
	index->map = image_map_ref(map);
	*out = steal_pointer(&index);
	return 0;
}

void host_index_free(struct host_index *index)
{
	if (!index)
		return;
	image_map_unref(index->map);
	free(index);
}

/* How many extents begin at host_off or before. */
static size_t count_up_to(const struct host_index *index, uint64_t host_off)
{
	size_t low = 0, high = index->map->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (index->map->entries[index->order[middle]].host_off <= host_off)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool host_index_lookup(const struct host_index *index, uint64_t host_off, struct extent *out)
{
	const struct map_entry *entries = index->map->entries;
	size_t next = count_up_to(index, host_off);

	if (next > 0) {
		size_t i = index->order[next - 1];
		uint64_t into = host_off - entries[i].host_off;

		if (into < extent_length(entries, i)) {
			*out = (struct extent){.guest_off = entries[i].guest_off + into,
			                       .length = extent_length(entries, i) - into,
			                       .host_off = host_off};
			return true;
		}
	}
	uint64_t end = next < index->map->count ? entries[index->order[next]].host_off : UINT64_MAX;
	*out = (struct extent){.guest_off = 0, .length = end - host_off, .host_off = host_off};
	return false;
}

bool host_index_unmapped(const struct host_index *index, uint64_t host_off, uint64_t *start, uint64_t *end)
{
	const struct map_entry *entries = index->map->entries;
	size_t next = count_up_to(index, host_off);

	*start = 0;
	if (next > 0) {
		size_t i = index->order[next - 1];
		*start = entries[i].host_off + extent_length(entries, i);
	}
	*end = next < index->map->count ? entries[index->order[next]].host_off : UINT64_MAX;
	return *start <= host_off;
}

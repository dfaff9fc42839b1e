/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What image_map.c and host_index.c share, and nobody else sees: the array behind an image map and its order on the host.
 */
#ifndef ZCFS_IMAGE_MAP_INTERNAL_H
#define ZCFS_IMAGE_MAP_INTERNAL_H

#include <stdatomic.h>

#include "mapdb/image_map.h"
#include "mapdb/key_index.h"

/* Extent i is [entries[i].guest_off, entries[i + 1].guest_off); entries[count] is a sentinel whose guest_off is the size. */
struct map_entry {
	uint64_t guest_off;
	uint64_t host_off;
};

struct image_map {
	atomic_size_t references;
	uint64_t size; /* bytes */
	size_t count;  /* extents */
	struct map_entry *entries;
	struct key_index index; /* over guest_off */
};

/* Extents are numbered with 32 bits on the host side, which also bounds what a damaged database can make us allocate. */
#define IMAGE_MAP_COUNT_MAX (UINT32_MAX - 1)

/* Sorts count keys by their bits [low_bit, high_bit), ascending, stable. scratch holds count keys; the result is in keys. */
void radix_sort(uint64_t *keys, uint64_t *scratch, size_t count, unsigned int low_bit, unsigned int high_bit);

/* The order of count extents on the host: order[0] is the index of the one with the lowest host_off. entries[count] is the sentinel.
 * NULL for order if only the check is wanted. -EUCLEAN if two extents share a host byte; -ENOMEM. */
int host_order(const struct map_entry *entries, size_t count, uint32_t *order);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map_walk: the extents of a request, one after the other: those of the map, cut to [guest_off, guest_off + length),
 * which must lie within the image.
 */
#ifndef ZCFS_MAP_WALK_H
#define ZCFS_MAP_WALK_H

#include "mapdb/image_map.h"

struct map_walk {
	const struct image_map *map;
	size_t index; /* of the next extent */
	uint64_t guest_off, end;
};

static inline struct map_walk map_walk_begin(const struct image_map *map, uint64_t guest_off, size_t length)
{
	return (struct map_walk){map, image_map_find(map, guest_off), guest_off, guest_off + length};
}

/* False: that was the last one. */
static inline bool map_walk_next(struct map_walk *walk, uint64_t *host_off, size_t *length)
{
	struct extent extent;
	uint64_t into;

	if (walk->guest_off == walk->end)
		return false;
	extent = image_map_get(walk->map, walk->index++);
	into = walk->guest_off - extent.guest_off;
	extent.length -= into;
	if (extent.length > walk->end - walk->guest_off)
		extent.length = walk->end - walk->guest_off;
	*host_off = extent.host_off + into;
	*length = (size_t)extent.length;
	walk->guest_off += extent.length;
	return true;
}

#endif

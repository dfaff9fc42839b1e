/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map_plot: an image map as a dot plot: guest offsets from left to right, host offsets from the bottom up. What is
 * sequential on both sides is a diagonal. Pure, any thread.
 */
#ifndef ZCFS_MAP_PLOT_H
#define ZCFS_MAP_PLOT_H

#include <stdint.h>

#include "mapdb/image_map.h"

#define PLOT_SIDE   160u
#define PLOT_LEVELS 4u

struct map_plot {
	uint64_t guest_size, host_size;       /* bytes: what the sides stand for */
	uint64_t bytes[PLOT_SIDE][PLOT_SIDE]; /* mapped in each square: [host][guest] */
};

/* *out is NULL for an empty map. -ENOMEM. */
int map_plot_new(const struct image_map *map, struct map_plot **out);

/* How dark a square is: 0 (nothing there) to PLOT_LEVELS (at least half of the bytes of its column). */
unsigned int map_plot_level(const struct map_plot *plot, unsigned int guest, unsigned int host);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/map_plot.h"

#include <errno.h>
#include <stdlib.h>

/* Where square number begins. */
static uint64_t square_start(uint64_t size, unsigned int number)
{
	return (uint64_t)((unsigned __int128)size * number / PLOT_SIDE);
}

static unsigned int square_of(uint64_t size, uint64_t off)
{
	return (unsigned int)((((unsigned __int128)off + 1) * PLOT_SIDE - 1) / size);
}

static void add(struct map_plot *plot, struct extent extent)
{
	while (extent.length) {
		unsigned int guest = square_of(plot->guest_size, extent.guest_off);
		unsigned int host = square_of(plot->host_size, extent.host_off);
		uint64_t guest_left = square_start(plot->guest_size, guest + 1) - extent.guest_off;
		uint64_t host_left = square_start(plot->host_size, host + 1) - extent.host_off;
		uint64_t here = guest_left < host_left ? guest_left : host_left;
		if (here > extent.length)
			here = extent.length;
		plot->bytes[host][guest] += here;
		extent.guest_off += here;
		extent.host_off += here;
		extent.length -= here;
	}
}

int map_plot_new(const struct image_map *map, struct map_plot **out)
{
	*out = NULL;
	if (!image_map_size(map))
		return 0;
	struct map_plot *plot = calloc(1, sizeof(*plot));
	if (!plot)
		return -ENOMEM;
	plot->guest_size = image_map_size(map);
	plot->host_size = image_map_host_end(map);
	for (size_t i = 0; i < image_map_count(map); i++)
		add(plot, image_map_get(map, i));
	*out = plot;
	return 0;
}

unsigned int map_plot_level(const struct map_plot *plot, unsigned int guest, unsigned int host)
{
	uint64_t bytes = plot->bytes[host][guest];
	uint64_t column = square_start(plot->guest_size, guest + 1) - square_start(plot->guest_size, guest);
	if (!bytes)
		return 0;
	for (unsigned int level = PLOT_LEVELS; level > 1; level--, column /= 4)
		if (bytes >= column / 2)
			return level;
	return 1;
}

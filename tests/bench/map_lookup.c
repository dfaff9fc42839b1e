/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map-lookup: nanoseconds for a lookup at a random place of a map of EXTENTS extents (1 million) of 4 KiB.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mapdb/image_map.h"

#define LENGTH  4096u
#define LOOKUPS 4000000u

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static struct image_map *reversed_map(size_t count)
{
	struct image_map_builder *builder;
	struct image_map *map = NULL;

	if (image_map_builder_new(count, &builder) < 0)
		return NULL;
	for (size_t i = 0; i < count; i++) {
		struct extent extent = {.guest_off = i * LENGTH, .length = LENGTH, .host_off = (count - i) * LENGTH};

		image_map_builder_add(builder, &extent);
	}
	return image_map_builder_finish(builder, count * LENGTH, &map) < 0 ? NULL : map;
}

int main(int argc, char **argv)
{
	size_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000000;
	struct image_map *map = count ? reversed_map(count) : NULL;
	uint64_t state = 1, sum = 0;
	struct timespec begin, end;

	if (!map) {
		fprintf(stderr, "map-lookup: no such map can be made\n");
		return EXIT_FAILURE;
	}
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (unsigned int i = 0; i < LOOKUPS; i++) {
		struct extent extent;

		/* Each depends on the one before, as if somebody waited for it. */
		image_map_lookup(map, (next_random(&state) + (sum & 1)) % (count * LENGTH), LENGTH, &extent);
		sum += extent.host_off;
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%zu extents: %.1f ns a lookup (checksum %llx)\n", count,
	       ((double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec)) / LOOKUPS,
	       (unsigned long long)sum);
	image_map_unref(map);
	return EXIT_SUCCESS;
}

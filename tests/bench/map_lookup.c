/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map-lookup: nanoseconds for a lookup at a random place of a map of EXTENTS extents (1 million) of 4 KiB. Beside it,
 * what no lookup can do without: one access to a random place of as much memory as the map's array takes, without any
 * computing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "mapdb/image_map.h"

#define LENGTH  4096u
#define LOOKUPS 4000000u

#define CACHE_LINE  64u
#define EXTENT_SIZE 16u /* bytes of the map's array */
#define HUGE_PAGE   (2u << 20)

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

static double since_ns(const struct timespec *begin)
{
	struct timespec end;

	clock_gettime(CLOCK_MONOTONIC, &end);
	return (double)(end.tv_sec - begin->tv_sec) * 1e9 + (double)(end.tv_nsec - begin->tv_nsec);
}

static double lookup_ns(const struct image_map *map, uint64_t *checksum)
{
	uint64_t state = 1, sum = 0, size = image_map_size(map);
	struct timespec begin;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (unsigned int i = 0; i < LOOKUPS; i++) {
		struct extent extent;

		/* Each depends on the one before, as if somebody waited for it. */
		image_map_lookup(map, (next_random(&state) + (sum & 1)) % size, LENGTH, &extent);
		sum += extent.host_off;
	}
	*checksum = sum;
	return since_ns(&begin) / LOOKUPS;
}

/* Each line of the processor's cache names the next one, in one ring through all of them in random order (Sattolo's
 * shuffle). Negative: no memory. */
static double access_ns(size_t bytes, uint64_t *checksum)
{
	size_t lines = bytes / CACHE_LINE + 1, room = (lines * CACHE_LINE / HUGE_PAGE + 1) * HUGE_PAGE, at = 0;
	size_t(*next)[CACHE_LINE / sizeof(size_t)] = aligned_alloc(HUGE_PAGE, room);
	uint64_t state = 1;
	struct timespec begin;
	double ns;

	if (!next)
		return -1;
	madvise(next, room, MADV_HUGEPAGE);
	for (size_t i = 0; i < lines; i++)
		next[i][0] = i;
	for (size_t i = lines - 1; i > 0; i--) {
		size_t other = next_random(&state) % i, line = next[i][0];

		next[i][0] = next[other][0];
		next[other][0] = line;
	}
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (unsigned int i = 0; i < LOOKUPS; i++)
		at = next[at][0];
	ns = since_ns(&begin) / LOOKUPS;
	*checksum += at;
	free(next);
	return ns;
}

int main(int argc, char **argv)
{
	size_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000000;
	struct image_map *map = count ? reversed_map(count) : NULL;
	double lookup, access;
	uint64_t sum;

	if (!map) {
		fprintf(stderr, "map-lookup: no such map can be made\n");
		return EXIT_FAILURE;
	}
	lookup = lookup_ns(map, &sum);
	access = access_ns(count * EXTENT_SIZE, &sum);
	image_map_unref(map);
	if (access < 0) {
		fprintf(stderr, "map-lookup: no memory\n");
		return EXIT_FAILURE;
	}
	printf("%zu extents: %.1f ns a lookup, of which one access to so much memory is %.1f (checksum %llx)\n", count,
	       lookup, access, (unsigned long long)sum);
	return EXIT_SUCCESS;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/fuzz/fuzz_extents.h"

#include <stdlib.h>

#include "tests/mapdb/check.h"

enum { ANY_GUEST = 1, ANY_LENGTH = 2, ANY_HOST = 4 };

struct extent take_extent(struct input *input, uint64_t *next)
{
	uint8_t flags = (uint8_t)take(input, 1);
	uint64_t length = (1 + take(input, 1)) * IMAGE_MAP_UNIT, host_off = take(input, 2) * IMAGE_MAP_UNIT;
	struct extent extent = {
	        .guest_off = flags & ANY_GUEST ? take(input, 8) : *next,
	        .length = flags & ANY_LENGTH ? take(input, 8) : length,
	        .host_off = flags & ANY_HOST ? take(input, 8) : host_off,
	};
	*next = extent.guest_off + extent.length;
	return extent;
}

static int compare_host(const void *a, const void *b)
{
	uint64_t x = ((const struct extent *)a)->host_off, y = ((const struct extent *)b)->host_off;
	return x < y ? -1 : x > y;
}

void judge_map(const struct image_map *map)
{
	size_t count = image_map_count(map);
	struct extent *sorted = calloc(count + 1, sizeof(*sorted));
	uint64_t pos = 0;
	CHECK(sorted);
	for (size_t i = 0; i < count; i++) {
		sorted[i] = image_map_get(map, i);
		CHECK(sorted[i].guest_off == pos && sorted[i].length && sorted[i].length <= IMAGE_MAP_OFF_MAX - pos);
		CHECK(sorted[i].host_off <= IMAGE_MAP_OFF_MAX - sorted[i].length);
		CHECK(sorted[i].host_off % IMAGE_MAP_UNIT == 0 && pos % IMAGE_MAP_UNIT == 0);
		pos += sorted[i].length;
	}
	CHECK(pos == image_map_size(map));
	qsort(sorted, count, sizeof(*sorted), compare_host);
	for (size_t i = 1; i < count; i++)
		CHECK(sorted[i - 1].host_off + sorted[i - 1].length <= sorted[i].host_off);
	free(sorted);
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: the rows of a map, and what the table settle has saved of a pass that was interrupted. Byte 0: options; 8
 * bytes each: plane base, threshold, the host's limit; then the extents, see take_extent().
 *
 * Promise: a map that is accepted covers the image and shares no host byte; a plan for it moves each piece at most
 * once, to host space that nobody has and that the limit leaves; the map can be changed so. Whoever goes on planning
 * comes to an end.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mapdb/settle_plan.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_extents.h"
#include "tests/mapdb/check.h"

#define EXTENTS_MAX 256u

static void check_moves(const struct host_index *index, const struct settle_plan *plan, uint64_t limit)
{
	uint64_t pos = 0;
	for (size_t i = 0; i < plan->count; i++) {
		const struct extent *move = &plan->moves[i];
		struct extent found;
		CHECK(move->length && move->guest_off >= pos);
		pos = move->guest_off + move->length;
		CHECK(!host_index_lookup(index, move->host_off, &found) && found.length >= move->length);
		CHECK(!limit || move->host_off + move->length <= limit);
		CHECK(move->host_off + move->length <= plan->host_end);
	}
}

static void check_plan(struct image_map *map, const struct settle_plan_options *options)
{
	struct host_index *index;
	struct settle_plan plan;
	struct image_map *moved;
	CHECK_IS(host_index_new(map, &index), 0);
	int r = settle_plan_make(map, index, options, &plan);
	CHECK_IS(r, 0);
	check_moves(index, &plan, options->host_limit);
	r = image_map_relocate(map, plan.moves, plan.count, &moved);
	/* Nothing is too far away for a plan: the host refuses what it cannot do. */
	CHECK(r == 0 || (r == -EUCLEAN && plan.host_end > IMAGE_MAP_OFF_MAX));
	if (r == 0) {
		judge_map(moved);
		CHECK(!plan.count || options->identity || image_map_count(moved) < image_map_count(map));
		image_map_unref(moved);
	}
	settle_plan_release(&plan);
	host_index_free(index);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct extent extents[EXTENTS_MAX];
	struct input input = input_of(data, size);
	uint8_t flags = (uint8_t)take(&input, 1);
	struct settle_plan_options options = {
	        .resume = flags & 1,
	        .identity = flags & 2,
	        .plane_base = take(&input, 8),
	        .threshold = take(&input, 8),
	        .host_limit = take(&input, 8),
	};
	struct image_map *map;
	uint64_t next = 0;
	size_t count = 0;
	for (; count < EXTENTS_MAX && input_left(&input); count++)
		extents[count] = take_extent(&input, &next);
	int r = image_map_new(extents, count, next, &map);
	CHECK(r == 0 || r == -EUCLEAN || r == -EFBIG);
	if (r == 0) {
		judge_map(map);
		check_plan(map, &options);
		image_map_unref(map);
	}
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: whatever the map, a plan moves each piece of an image at most once, to host space that nobody has, in
 * whatever order and portions its moves are carried out; it leaves long extents alone; the map gets shorter by it,
 * until there is nothing left to plan; and the way to the identity ends there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "mapdb/image_map.h"
#include "mapdb/settle_plan.h"

#define UNITS_MAX   40
#define ROUNDS      4000
#define PLANES      4
#define PLANS_MAX   200
#define UNIT        IMAGE_MAP_UNIT
#define THRESHOLD   (4 * UNIT)
#define LONG_ROUNDS 3

/* A map of units that lie anywhere in the first planes, often next to each other. */
static struct image_map *random_map(void)
{
	struct extent extents[UNITS_MAX];
	bool used[PLANES][UNITS_MAX] = {0};
	struct image_map *map;
	uint64_t units = random_below(UNITS_MAX + 1);
	uint64_t plane = 0, place = 0;

	for (uint64_t i = 0; i < units; i++) {
		bool follow = i > 0 && place + 1 < UNITS_MAX && !used[plane][place + 1] && random_below(3) > 0;

		place++;
		while (!follow && (plane = random_below(PLANES), place = random_below(UNITS_MAX), used[plane][place]))
			;
		used[plane][place] = true;
		extents[i] = (struct extent){i * UNIT, UNIT, plane * SETTLE_PLANE_ALIGN + place * UNIT};
	}
	uint64_t size = units * UNIT;
	if (units && random_below(4) == 0) {
		extents[units - 1].length -= random_below(UNIT);
		size = extents[units - 1].guest_off + extents[units - 1].length;
	}
	CHECK_IS(image_map_new(extents, units, size, &map), 0);
	return map;
}

static void check_targets_free(struct image_map *map, const struct settle_plan *plan)
{
	struct host_index *index;
	struct extent found;
	uint64_t pos = 0, bytes = 0;

	CHECK_IS(host_index_new(map, &index), 0);
	for (size_t i = 0; i < plan->count; i++) {
		const struct extent *move = &plan->moves[i];

		CHECK(move->length > 0 && move->guest_off >= pos);
		CHECK_IS(move->host_off % SETTLE_PLANE_ALIGN, move->guest_off % SETTLE_PLANE_ALIGN);
		CHECK(!host_index_lookup(index, move->host_off, &found));
		CHECK(found.length >= move->length);
		CHECK(move->host_off + move->length <= plan->host_end);
		pos = move->guest_off + move->length;
		bytes += move->length;
	}
	CHECK(pos <= image_map_size(map));
	CHECK_IS(bytes, plan->bytes);
	host_index_free(index);
}

static void check_long_stay(const struct image_map *before, const struct image_map *after)
{
	for (size_t i = 0; i < image_map_count(before); i++) {
		struct extent extent = image_map_get(before, i), now;

		if (extent.length < THRESHOLD)
			continue;
		image_map_lookup(after, extent.guest_off, extent.length, &now);
		CHECK(now.length == extent.length && now.host_off == extent.host_off);
	}
}

/* Carries out some moves, in portions and out of order, as an interrupted pass does; everything if all is set. */
static struct image_map *carry_out(const struct image_map *map, const struct settle_plan *plan, bool all)
{
	struct extent places[UNITS_MAX * 2];
	struct image_map *moved;
	size_t count = 0;

	for (size_t i = 0; i < plan->count; i++) {
		struct extent move = plan->moves[i];

		if (!all && random_below(3) == 0)
			continue;
		if (!all && move.length > UNIT && random_below(3) == 0)
			move.length = UNIT * (1 + random_below(move.length / UNIT));
		places[count++] = move;
	}
	CHECK_IS(image_map_relocate(map, places, count, &moved), 0);
	return moved;
}

static struct settle_plan make(struct image_map *map, const struct settle_plan_options *options)
{
	struct settle_plan plan;
	struct host_index *index;

	CHECK_IS(host_index_new(map, &index), 0);
	CHECK_IS(settle_plan_make(map, index, options, &plan), 0);
	host_index_free(index);
	return plan;
}

/* Plans and carries out until nothing is left. */
static void settle_to_the_end(struct image_map *map)
{
	struct settle_plan_options options = {.threshold = THRESHOLD};

	for (int i = 0;; i++) {
		CHECK(i < PLANS_MAX);
		struct settle_plan plan = make(map, &options);
		bool all = random_below(2), done = plan.count == 0 && !options.resume;

		check_targets_free(map, &plan);
		struct image_map *moved = carry_out(map, &plan, all);
		check_long_stay(map, moved);
		if (all && plan.count > 0)
			CHECK(image_map_count(moved) < image_map_count(map));
		options.resume = !all && random_below(2);
		options.plane_base = plan.plane_base;
		settle_plan_release(&plan);
		image_map_unref(map);
		map = moved;
		if (done)
			break;
	}
	image_map_unref(map);
}

static void settle_to_identity(struct image_map *map)
{
	const struct settle_plan_options options = {.identity = true};

	for (int i = 0; !image_map_is_identity(map); i++) {
		CHECK(i < PLANS_MAX);
		struct settle_plan plan = make(map, &options);

		CHECK(plan.count > 0);
		check_targets_free(map, &plan);
		bool all = i >= LONG_ROUNDS || random_below(2);
		struct image_map *moved = carry_out(map, &plan, all);
		settle_plan_release(&plan);
		image_map_unref(map);
		map = moved;
		if (all && i >= LONG_ROUNDS)
			CHECK(i < LONG_ROUNDS + 3);
	}
	image_map_unref(map);
}

/* What a host whose files may not get longer leaves room for. */
static void check_limit(struct image_map *map)
{
	uint64_t limit = image_map_host_end(map);
	const struct settle_plan_options options = {.threshold = THRESHOLD, .host_limit = limit ? limit : 1};
	struct settle_plan plan = make(map, &options);

	check_targets_free(map, &plan);
	CHECK(plan.host_end <= limit);
	settle_plan_release(&plan);
	image_map_unref(map);
}

/* The usual life: scattered by a pass, settled past everything; scattered again, settled back. */
static void check_life(void)
{
	enum { COUNT = 3000 };
	static struct extent extents[COUNT];
	const struct settle_plan_options options = {0};
	struct image_map *map, *moved;
	const uint64_t block = 4096, size = COUNT * block,
	               stride = (size + SETTLE_PLANE_ALIGN - 1) & ~(SETTLE_PLANE_ALIGN - 1);

	for (size_t i = 0; i < COUNT; i++)
		extents[i] = (struct extent){i * block, block, (COUNT - 1 - i) * block};
	for (int life = 0; life < 2; life++) {
		CHECK_IS(image_map_new(extents, COUNT, size, &map), 0);
		struct settle_plan plan = make(map, &options);
		CHECK_IS(plan.count, 1);
		CHECK_IS(plan.plane_base, life ? 0 : stride);
		CHECK_IS(plan.bytes, size);
		moved = carry_out(map, &plan, true);
		CHECK_IS(image_map_count(moved), 1);
		settle_plan_release(&plan);
		image_map_unref(map);
		for (size_t i = 0; i < COUNT; i++)
			extents[i].host_off += stride;
		image_map_unref(moved);
	}
}

int main(void)
{
	random_start();
	check_life();
	for (int i = 0; i < ROUNDS; i++) {
		check_context("round %d", i);
		settle_to_the_end(random_map());
		settle_to_identity(random_map());
		check_limit(random_map());
	}
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: an image map answers every lookup, permutation, resize and inverse lookup as an array with one host unit for
 * each guest unit would; and maps that break an invariant are refused.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "mapdb/image_map.h"
#include "mapdb/image_map_internal.h"

#define UNITS_MAX  48 /* small, so that every special case comes up often */
#define HOST_UNITS 96
#define ROUNDS     6000
#define UNMAPPED   UINT64_MAX

/* The naive map: host byte of each guest byte, by unit. */
struct model {
	uint64_t size;            /* bytes; the last unit may be partial */
	uint64_t host[UNITS_MAX]; /* unit numbers */
};

static uint64_t units_of(uint64_t size)
{
	return (size + IMAGE_MAP_UNIT - 1) / IMAGE_MAP_UNIT;
}

static void random_model(struct model *model)
{
	uint64_t units = random_below(UNITS_MAX + 1), pool[HOST_UNITS];

	model->size = units * IMAGE_MAP_UNIT;
	if (units && random_below(4) == 0)
		model->size -= random_below(IMAGE_MAP_UNIT);
	for (uint64_t i = 0; i < HOST_UNITS; i++)
		pool[i] = i;
	for (uint64_t i = 0; i < units; i++) {
		bool follow = i > 0 && random_below(3) > 0;
		uint64_t pick = random_below(HOST_UNITS);

		for (uint64_t j = 0; follow && j < HOST_UNITS; j++)
			if (pool[j] == model->host[i - 1] + 1)
				pick = j;
		while (pool[pick] == UNMAPPED)
			pick = (pick + 1) % HOST_UNITS;
		model->host[i] = pool[pick];
		pool[pick] = UNMAPPED;
	}
}

/* One extent a unit, or merged at random: the map must come out the same. */
static size_t model_extents(const struct model *model, struct extent *extents)
{
	size_t count = 0;

	for (uint64_t i = 0; i < units_of(model->size); i++) {
		uint64_t length = model->size - i * IMAGE_MAP_UNIT;

		length = length < IMAGE_MAP_UNIT ? length : IMAGE_MAP_UNIT;
		if (count && model->host[i] == model->host[i - 1] + 1 && random_below(2))
			extents[count - 1].length += length;
		else
			extents[count++] = (struct extent){i * IMAGE_MAP_UNIT, length, model->host[i] * IMAGE_MAP_UNIT};
	}
	return count;
}

static struct image_map *model_map(const struct model *model)
{
	struct extent extents[UNITS_MAX];
	struct image_map *map;

	CHECK_IS(image_map_new(extents, model_extents(model, extents), model->size, &map), 0);
	return map;
}

static void check_lookup(const struct image_map *map, const struct model *model)
{
	for (uint64_t off = 0; off < model->size; off += 1 + random_below(300)) {
		uint64_t max = 1 + random_below(3000);
		struct extent found;

		image_map_lookup(map, off, max, &found);
		CHECK_IS(found.guest_off, off);
		CHECK(found.length > 0 && found.length <= max && off + found.length <= model->size);
		CHECK_IS(found.host_off, model->host[off / 512] * 512 + off % 512);
		for (uint64_t o = off; o < off + found.length; o++)
			CHECK(model->host[o / 512] * 512 + o % 512 == found.host_off + (o - off));
		if (found.length < max && off + found.length < model->size)
			CHECK(model->host[(off + found.length) / 512] * 512 != found.host_off + found.length);
	}
}

/* Where the unmapped bytes around a host unit begin and end. */
static void check_unmapped(const struct host_index *index, const struct model *model, uint64_t host, bool mapped)
{
	uint64_t start, end, expected_start = 0, expected_end = UINT64_MAX;

	for (uint64_t i = 0; i < units_of(model->size); i++) {
		uint64_t off = model->host[i] * 512;
		uint64_t length = model->size - i * 512 < 512 ? model->size - i * 512 : 512;

		if (model->host[i] < host && off + length > expected_start)
			expected_start = off + length;
		if (model->host[i] > host && off < expected_end)
			expected_end = off;
	}
	CHECK_IS(host_index_unmapped(index, host * 512, &start, &end), !mapped);
	CHECK(mapped || (start == expected_start && end == expected_end));
}

static void check_inverse(struct image_map *map, const struct model *model)
{
	struct host_index *index;

	CHECK_IS(host_index_new(map, &index), 0);
	for (uint64_t host = 0; host < HOST_UNITS; host++) {
		uint64_t guest = UNMAPPED;
		struct extent found;

		for (uint64_t i = 0; i < units_of(model->size); i++)
			guest = model->host[i] == host ? i : guest;
		bool mapped = host_index_lookup(index, host * 512, &found);
		CHECK_IS(mapped, guest != UNMAPPED);
		CHECK_IS(found.host_off, host * 512);
		CHECK(found.length > 0);
		if (mapped)
			CHECK_IS(found.guest_off, guest * 512);
		check_unmapped(index, model, host, mapped);
	}
	host_index_free(index);
}

static void check_same(struct image_map *map, const struct model *model)
{
	uint64_t end = 0;
	bool identity = true;

	CHECK_IS(image_map_size(map), model->size);
	for (uint64_t i = 0; i < units_of(model->size); i++) {
		uint64_t length = model->size - i * 512 < 512 ? model->size - i * 512 : 512;

		end = model->host[i] * 512 + length > end ? model->host[i] * 512 + length : end;
		identity = identity && model->host[i] == i;
	}
	CHECK_IS(image_map_host_end(map), end);
	CHECK_IS(image_map_is_identity(map), identity);
	for (size_t i = 0; i + 1 < image_map_count(map); i++) { /* merged as far as possible */
		struct extent a = image_map_get(map, i), b = image_map_get(map, i + 1);

		CHECK_IS(a.guest_off + a.length, b.guest_off);
		CHECK(a.host_off + a.length != b.host_off);
	}
	check_lookup(map, model);
	check_inverse(map, model);
}

static void shuffle(uint64_t *numbers, size_t count)
{
	for (size_t i = count; i > 1; i--) {
		size_t j = random_below(i);
		uint64_t swap = numbers[i - 1];

		numbers[i - 1] = numbers[j];
		numbers[j] = swap;
	}
}

/* Chooses some whole units and permutes them. */
static size_t random_moves(const struct model *model, struct map_move *moves, struct model *after)
{
	uint64_t chosen[UNITS_MAX], sources[UNITS_MAX];
	size_t count = 0;

	*after = *model;
	for (uint64_t i = 0; i < model->size / 512; i++)
		if (random_below(2))
			chosen[count++] = i;
	memcpy(sources, chosen, count * sizeof chosen[0]);
	shuffle(sources, count);
	for (size_t i = 0; i < count; i++) {
		moves[i] = (struct map_move){chosen[i] * 512, sources[i] * 512, 512};
		after->host[chosen[i]] = model->host[sources[i]];
	}
	return count;
}

static void check_permute(struct image_map *map, const struct model *model)
{
	struct map_move moves[UNITS_MAX];
	struct model after;
	struct image_map *permuted;
	size_t count = random_moves(model, moves, &after);

	CHECK_IS(image_map_permute(map, moves, count, &permuted), 0);
	check_same(permuted, &after);
	image_map_unref(permuted);
	check_same(map, model); /* maps never change */
	if (count == 0)
		return;

	size_t i = random_below(count);
	moves[i].old_off =
	        moves[(i + 1) % count].old_off; /* two from one place (or, if there is only one, none at all) */
	if (count > 1)
		CHECK_IS(image_map_permute(map, moves, count, &permuted), -EINVAL);
	moves[i].old_off = model->size;
	CHECK_IS(image_map_permute(map, moves, count, &permuted), -EINVAL);
	moves[i].old_off = UINT64_MAX - 511;
	CHECK_IS(image_map_permute(map, moves, count, &permuted), -EINVAL);
}

/* A free unit run in the model's host space: its first unit. */
static uint64_t free_host(const struct model *model)
{
	uint64_t end = 0;

	for (uint64_t i = 0; i < units_of(model->size); i++)
		end = model->host[i] >= end ? model->host[i] + 1 : end;
	return end + random_below(3);
}

static void check_resize(struct image_map *map, const struct model *model)
{
	struct model after = *model;
	struct image_map *resized;
	uint64_t old_units = units_of(model->size), first = free_host(model);

	after.size = random_below(UNITS_MAX * 512 + 1);
	for (uint64_t i = old_units; i < units_of(after.size); i++)
		after.host[i] = first + (i - old_units);
	CHECK_IS(image_map_resize(map, after.size, first * 512, &resized), 0);
	check_same(resized, &after);
	image_map_unref(resized);
	if (units_of(after.size) > old_units && old_units > 0)
		CHECK_IS(image_map_resize(map, after.size, model->host[0] * 512, &resized), -EUCLEAN);
}

static void check_relocate(struct image_map *map, const struct model *model)
{
	struct extent places[UNITS_MAX];
	struct model after = *model;
	struct image_map *moved;
	uint64_t units = units_of(model->size), first = free_host(model);
	size_t count = 0;

	for (uint64_t i = 0; i < units; i += 1 + random_below(3)) {
		uint64_t length = model->size - i * 512;

		places[count++] = (struct extent){i * 512, length < 512 ? length : 512, (first + units - i) * 512};
		after.host[i] = first + units - i;
	}
	CHECK_IS(image_map_relocate(map, places, count, &moved), 0);
	check_same(moved, &after);
	image_map_unref(moved);
	if (count < 2)
		return;
	places[0].host_off = model->host[places[1].guest_off / 512] * 512;
	CHECK_IS(image_map_relocate(map, places, 1, &moved), -EUCLEAN);
	places[0].host_off = places[1].host_off;
	CHECK_IS(image_map_relocate(map, places, count, &moved), -EUCLEAN);
	places[1].guest_off = 0;
	CHECK_IS(image_map_relocate(map, places, count, &moved), -EINVAL);
	places[1].guest_off = model->size;
	CHECK_IS(image_map_relocate(map, places, count, &moved), -EINVAL);
}

/* Every way to break one good list of extents. */
static void check_refusals(const struct model *model)
{
	struct extent extents[UNITS_MAX], bad[UNITS_MAX];
	struct image_map *map;
	size_t count = model_extents(model, extents);

	if (count < 2)
		return;
	for (int way = 0; way < 8; way++) {
		uint64_t size = model->size;
		size_t n = count, i = random_below(count - 1);

		memcpy(bad, extents, sizeof bad);
		switch (way) {
		case 0:
			bad[i].length += 512;
			break;
		case 1:
			bad[i].host_off += 1;
			break;
		case 2:
			bad[i].length -= 1;
			break;
		case 3:
			bad[i].host_off = bad[i + 1].host_off;
			break;
		case 4:
			n--;
			break;
		case 5:
			size += 512;
			break;
		case 6:
			bad[i].host_off = (uint64_t)INT64_MAX - 511;
			bad[i].length = 512;
			bad[i].guest_off = UINT64_MAX - 511;
			break;
		case 7:
			bad[0].guest_off = 512;
			break;
		}
		check_context("way %d", way);
		CHECK_IS(image_map_new(bad, n, size, &map), -EUCLEAN);
	}
	check_context("%s", "");
}

/* The overlap check and the order must not depend on how large the offsets are. */
static void check_wide(void)
{
	enum { COUNT = 1000 };
	static struct extent extents[COUNT];
	static uint32_t order[COUNT];
	struct image_map *map;
	uint64_t pool[COUNT];

	for (uint64_t i = 0; i < COUNT; i++)
		pool[i] = i;
	shuffle(pool, COUNT);
	for (int wide = 0; wide < 2; wide++) {
		uint64_t stride = wide ? ((uint64_t)INT64_MAX / COUNT) & ~UINT64_C(511) : 4096;

		for (uint64_t i = 0; i < COUNT; i++)
			extents[i] = (struct extent){i * 1024, 1024, pool[i] * stride};
		CHECK_IS(image_map_new(extents, COUNT, COUNT * 1024, &map), 0);
		CHECK_IS(host_order(map->entries, map->count, order), 0);
		for (size_t i = 0; i < COUNT; i++)
			CHECK_IS(pool[order[i]], i);
		image_map_unref(map);
		size_t i = random_below(COUNT - 1);
		extents[i].host_off = extents[i + 1].host_off + 512;
		CHECK_IS(image_map_new(extents, COUNT, COUNT * 1024, &map), -EUCLEAN);
	}
}

/* Extents of one to seven units, so that none begins where a multiple would put it. */
static void check_find(size_t count)
{
	struct image_map_builder *builder;
	struct image_map *map;
	uint64_t end = 0;

	CHECK_IS(image_map_builder_new(0, &builder), 0);
	for (size_t i = 0; i < count; i++) {
		struct extent extent = {end, 512 * (1 + i % 7), (count - i) * 4096};

		CHECK_IS(image_map_builder_add(builder, &extent), 0);
		end += extent.length;
	}
	CHECK_IS(image_map_builder_finish(builder, end, &map), 0);
	for (size_t i = 0; i < count; i++) {
		struct extent extent = image_map_get(map, i);

		CHECK_IS(extent.host_off, (count - i) * 4096);
		CHECK_IS(image_map_find(map, extent.guest_off), i);
		CHECK_IS(image_map_find(map, extent.guest_off + extent.length - 1), i);
	}
	image_map_unref(map);
}

/* As many extents as fill the levels of the index, one fewer, and one more. */
static void check_index_levels(void)
{
	for (unsigned int levels = 1; levels <= 3; levels++) {
		size_t full = (size_t)1 << levels * KEY_INDEX_BITS;

		check_find(full - 1);
		check_find(full);
		check_find(full + 1);
	}
	check_find(1);
}

/* More keys than one radix pass sorts, and bits that do not divide evenly. */
static void check_radix_sort(void)
{
	enum { COUNT = 5000 };
	static uint64_t keys[COUNT], scratch[COUNT];

	for (unsigned int low = 0; low < 60; low += 7) {
		unsigned int high = low + 1 + (unsigned int)random_below(64 - low);
		uint64_t mask = (high - low == 64 ? UINT64_MAX : (UINT64_C(1) << (high - low)) - 1) << low;

		for (size_t i = 0; i < COUNT; i++)
			keys[i] = random_u64();
		radix_sort(keys, scratch, COUNT, low, high);
		for (size_t i = 1; i < COUNT; i++)
			CHECK((keys[i - 1] & mask) <= (keys[i] & mask));
	}
}

static void check_limits(void)
{
	struct image_map *map;
	struct extent found;

	CHECK_IS(image_map_identity((uint64_t)INT64_MAX + 1, &map), -EFBIG);
	CHECK_IS(image_map_identity(INT64_MAX, &map), 0);
	image_map_lookup(map, (uint64_t)INT64_MAX - 1, 100, &found);
	CHECK_IS(found.length, 1);
	image_map_unref(map);
	CHECK_IS(image_map_identity(0, &map), 0);
	CHECK_IS(image_map_count(map), 0);
	CHECK(image_map_is_identity(map));
	image_map_unref(map);
	image_map_unref(NULL);

	/* An odd end continues where it is, also when told so by its exact address. */
	struct extent odd = {0, 1000, 4096};
	struct image_map *grown;
	CHECK_IS(image_map_new(&odd, 1, 1000, &map), 0);
	CHECK_IS(image_map_resize(map, 2000, 4096 + 1000, &grown), 0);
	CHECK_IS(image_map_count(grown), 1);
	image_map_unref(grown);
	CHECK_IS(image_map_resize(map, 2000, 4096 + 1001, &grown), -EUCLEAN);
	CHECK_IS(image_map_resize(map, 1001, 0, &grown), 0);
	image_map_unref(grown);
	image_map_unref(map);
}

int main(void)
{
	random_start();
	check_limits();
	check_wide();
	check_index_levels();
	check_radix_sort();
	for (int i = 0; i < ROUNDS; i++) {
		struct model model;
		random_model(&model);
		struct image_map *map = model_map(&model);

		check_same(map, &model);
		check_permute(map, &model);
		check_resize(map, &model);
		check_relocate(map, &model);
		check_refusals(&model);
		image_map_unref(map);
	}
	return 0;
}

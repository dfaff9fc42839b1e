/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mapdb/settle_plan.h"

#include <errno.h>
#include <stdlib.h>

#include "mapdb/cleanup.h"

#define PLANES_MAX 64u /* looked at for each stretch; past these there is the one beyond everything */

struct planner {
	const struct image_map *map;
	const struct host_index *index;
	struct settle_plan_options options;
	uint64_t planes[PLANES_MAX]; /* bases, ascending; the last is past every extent */
	uint64_t plane_bytes[PLANES_MAX];
	size_t plane_count;
	struct settle_plan *plan;
	size_t capacity; /* of plan->moves */
};

/* Extents [first, end) of the map, in guest order. */
struct stretch {
	size_t first, end;
};

static uint64_t guest_end(const struct extent *extent)
{
	return extent->guest_off + extent->length;
}

static bool in_plane(const struct extent *extent, uint64_t base)
{
	return extent->host_off >= base && extent->host_off - base == extent->guest_off;
}

static void find_planes(struct planner *planner)
{
	uint64_t stride =
	        (image_map_size(planner->map) + SETTLE_PLANE_ALIGN - 1) / SETTLE_PLANE_ALIGN * SETTLE_PLANE_ALIGN;
	uint64_t beyond = (image_map_host_end(planner->map) + stride - 1) / stride * stride;

	for (uint64_t base = 0; base < beyond && planner->plane_count < PLANES_MAX - 1; base += stride)
		planner->planes[planner->plane_count++] = base;
	planner->planes[planner->plane_count++] = beyond;
}

/* How many bytes, from guest_off and at most to end, have their places in the plane free or are in them already. */
static uint64_t free_in_plane(const struct planner *planner, uint64_t base, uint64_t guest_off, uint64_t end)
{
	uint64_t pos = guest_off, limit = planner->options.host_limit;

	if (limit <= base)
		return 0;
	end = end < limit - base ? end : limit - base;
	while (pos < end) {
		struct extent found;

		if (host_index_lookup(planner->index, base + pos, &found) && found.guest_off != pos)
			break;
		pos += found.length < end - pos ? found.length : end - pos;
	}
	return pos > guest_off ? pos - guest_off : 0;
}

static int add_move(struct planner *planner, const struct extent *move, size_t plane)
{
	struct settle_plan *plan = planner->plan;

	if (plan->count == planner->capacity) {
		size_t capacity = planner->capacity ? planner->capacity * 2 : 64;
		struct extent *moves = reallocarray(plan->moves, capacity, sizeof *moves);

		if (!moves)
			return -ENOMEM;
		plan->moves = moves;
		planner->capacity = capacity;
	}
	plan->moves[plan->count++] = *move;
	plan->bytes += move->length;
	planner->plane_bytes[plane] += move->length;
	if (move->host_off + move->length > plan->host_end)
		plan->host_end = move->host_off + move->length;
	return 0;
}

/* Plans the part [guest_off, end) of the map to go to a plane, but for what is there. */
static int move_range(struct planner *planner, size_t plane, uint64_t guest_off, uint64_t end)
{
	struct extent move = {0};
	int rc = 0;

	while (guest_off < end && rc == 0) {
		struct extent extent;

		image_map_lookup(planner->map, guest_off, end - guest_off, &extent);
		if (in_plane(&extent, planner->planes[plane])) {
			if (move.length)
				rc = add_move(planner, &move, plane);
			move.length = 0;
		} else {
			if (!move.length)
				move = (struct extent){.guest_off = guest_off,
				                       .host_off = planner->planes[plane] + guest_off};
			move.length += extent.length;
		}
		guest_off += extent.length;
	}
	return rc == 0 && move.length ? add_move(planner, &move, plane) : rc;
}

/* Extents of a stretch, from its first, whose places in a plane are free. */
static size_t extents_that_fit(const struct planner *planner, const struct stretch *stretch, uint64_t base)
{
	struct extent first = image_map_get(planner->map, stretch->first);
	struct extent last = image_map_get(planner->map, stretch->end - 1);
	uint64_t end = first.guest_off + free_in_plane(planner, base, first.guest_off, guest_end(&last));
	size_t low = stretch->first, high = stretch->end; /* those before low fit; that at high does not */

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		struct extent extent = image_map_get(planner->map, middle);

		if (guest_end(&extent) <= end)
			low = middle + 1;
		else
			high = middle;
	}
	return low - stretch->first;
}

static bool resumed(const struct planner *planner, uint64_t base)
{
	return planner->options.resume && planner->options.plane_base == base;
}

struct choice {
	size_t plane;
	size_t count; /* extents */
	size_t gain;  /* extents by which the map gets shorter */
};

/* Where most extents at the beginning of a stretch become one. before: where what precedes the stretch will lie. */
static struct choice choose_plane(const struct planner *planner, const struct stretch *stretch,
                                  const struct extent *before)
{
	struct choice best = {0};

	for (size_t plane = 0; plane < planner->plane_count; plane++) {
		uint64_t base = planner->planes[plane];
		size_t count = extents_that_fit(planner, stretch, base), next = stretch->first + count;

		if (count == 0)
			continue;
		size_t gain = count - 1;
		if (before->length && in_plane(before, base))
			gain++;
		if (next == stretch->end && next < image_map_count(planner->map)) {
			struct extent after = image_map_get(planner->map, next);
			gain += in_plane(&after, base);
		}
		if (gain > best.gain || (gain == best.gain && gain > 0 && resumed(planner, base)))
			best = (struct choice){.plane = plane, .count = count, .gain = gain};
	}
	return best;
}

/* Plans for short extents between two that stay, or the ends of the image. */
static int plan_stretch(struct planner *planner, struct stretch stretch)
{
	struct extent before = {0};
	int rc = 0;

	if (stretch.first > 0)
		before = image_map_get(planner->map, stretch.first - 1);
	while (stretch.first < stretch.end && rc == 0) {
		struct choice choice = choose_plane(planner, &stretch, &before);

		if (choice.gain == 0) {
			before = image_map_get(planner->map, stretch.first++);
			continue;
		}
		uint64_t start = image_map_get(planner->map, stretch.first).guest_off;
		struct extent last = image_map_get(planner->map, stretch.first + choice.count - 1);

		rc = move_range(planner, choice.plane, start, guest_end(&last));
		before = (struct extent){.guest_off = start,
		                         .length = guest_end(&last) - start,
		                         .host_off = planner->planes[choice.plane] + start};
		stretch.first += choice.count;
	}
	return rc;
}

static bool stays(const struct planner *planner, size_t index)
{
	struct extent extent = image_map_get(planner->map, index);

	return extent.length >= planner->options.threshold ||
	       (planner->options.resume && in_plane(&extent, planner->options.plane_base));
}

static int plan_sequential(struct planner *planner)
{
	size_t count = image_map_count(planner->map);
	int rc = 0;

	for (size_t i = 0; i < count && rc == 0;) {
		struct stretch stretch = {i, i};

		while (stretch.end < count && !stays(planner, stretch.end))
			stretch.end++;
		if (stretch.end > stretch.first)
			rc = plan_stretch(planner, stretch);
		i = stretch.end + 1;
	}
	return rc;
}

/* What can go home does. What cannot, and may be in somebody else's way, goes past everything; after that all homes are
 * free. */
static int plan_identity(struct planner *planner)
{
	uint64_t pos = 0, size = image_map_size(planner->map);
	size_t beyond = planner->plane_count - 1;
	int rc = 0;

	while (pos < size && rc == 0) {
		uint64_t free_bytes = free_in_plane(planner, 0, pos, size);
		struct extent extent, occupant;

		if (free_bytes > 0) {
			rc = move_range(planner, 0, pos, pos + free_bytes);
			pos += free_bytes;
			continue;
		}
		host_index_lookup(planner->index, pos, &occupant);
		/* An image of odd size ends within a unit, whose rest is nobody's. */
		occupant.length += (IMAGE_MAP_UNIT - occupant.length % IMAGE_MAP_UNIT) % IMAGE_MAP_UNIT;
		image_map_lookup(planner->map, pos, occupant.length, &extent);
		if (extent.host_off < size) {
			uint64_t end = pos + extent.length;

			free_bytes = free_in_plane(planner, planner->planes[beyond], pos, end);
			if (free_bytes > 0)
				rc = move_range(planner, beyond, pos, pos + free_bytes);
		}
		pos += extent.length;
	}
	return rc;
}

int settle_plan_make(const struct image_map *map, const struct host_index *index,
                     const struct settle_plan_options *options, struct settle_plan *plan)
{
	struct planner planner = {.map = map, .index = index, .options = *options, .plan = plan};
	int rc;

	*plan = (struct settle_plan){0};
	if (image_map_count(map) == 0)
		return 0;
	if (planner.options.threshold == 0)
		planner.options.threshold = SETTLE_THRESHOLD_DEFAULT;
	if (planner.options.host_limit == 0 || planner.options.host_limit > IMAGE_MAP_OFF_MAX)
		planner.options.host_limit = IMAGE_MAP_OFF_MAX;
	planner.options.host_limit -= planner.options.host_limit % IMAGE_MAP_UNIT;
	find_planes(&planner);
	rc = options->identity ? plan_identity(&planner) : plan_sequential(&planner);
	if (rc < 0)
		settle_plan_release(plan);
	for (size_t i = 0, best = 0; i < planner.plane_count; i++) {
		best = planner.plane_bytes[i] > planner.plane_bytes[best] ? i : best;
		plan->plane_base = planner.planes[best];
	}
	return rc;
}

void settle_plan_release(struct settle_plan *plan)
{
	free(plan->moves);
	*plan = (struct settle_plan){0};
}

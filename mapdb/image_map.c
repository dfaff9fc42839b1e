/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * image_map: construction, lookup and the derived maps. The order on the host is in host_index.c.
 */
#include "mapdb/image_map.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "mapdb/cleanup.h"
#include "mapdb/image_map_internal.h"

struct image_map_builder {
	size_t count, capacity; /* extents; the array has room for the sentinel and whole groups of the index, too */
	uint64_t end;           /* guest offset at which the next extent must begin */
	int error;              /* of an earlier add */
	struct map_entry *entries;
};

#define HUGE_PAGE (2u << 20)

_Static_assert(IMAGE_MAP_COUNT_MAX < UINT64_C(1) << KEY_INDEX_BITS * (KEY_INDEX_LEVELS + 1),
               "the index has levels enough");

/* What the array of count extents takes. */
static size_t entries_bytes(size_t count)
{
	return (KEY_INDEX_ROOM(count) + 1) * sizeof(struct map_entry);
}

/* An array that is looked into at random places: a group of the index's begins with a line of the processor's cache,
 * and huge pages, where the system gives them, spare each lookup a walk through the page tables. */
static struct map_entry *entries_new(size_t count)
{
	size_t bytes = entries_bytes(count);
	void *entries;

	if (posix_memalign(&entries, bytes < HUGE_PAGE ? KEY_INDEX_LINE : HUGE_PAGE, bytes) != 0)
		return NULL;
	if (bytes >= HUGE_PAGE)
		madvise(entries, bytes - bytes % HUGE_PAGE, MADV_HUGEPAGE);
	return entries;
}

static int builder_reserve(struct image_map_builder *builder, size_t capacity)
{
	if (capacity > IMAGE_MAP_COUNT_MAX)
		capacity = IMAGE_MAP_COUNT_MAX;
	if (builder->count >= capacity)
		return -ENOMEM;
	struct map_entry *entries = entries_new(capacity);
	if (!entries)
		return -ENOMEM;
	if (builder->count > 0)
		memcpy(entries, builder->entries, builder->count * sizeof *entries);
	free(builder->entries);
	builder->entries = entries;
	builder->capacity = capacity;
	return 0;
}

int image_map_builder_new(size_t count_hint, struct image_map_builder **out)
{
	struct image_map_builder *builder = calloc(1, sizeof *builder);

	if (!builder)
		return -ENOMEM;
	int rc = builder_reserve(builder, count_hint ? count_hint : 1);
	if (rc < 0) {
		image_map_builder_drop(builder);
		return rc;
	}
	*out = builder;
	return 0;
}

void image_map_builder_drop(struct image_map_builder *builder)
{
	if (!builder)
		return;
	free(builder->entries);
	free(builder);
}

static bool aligned(uint64_t off)
{
	return off % IMAGE_MAP_UNIT == 0;
}

/* True if extent can be the next one. Only after the last one may the end be odd, and then builder->end is, so that the
 * misaligned guest_off of a further one gives it away. */
static bool extent_fits(const struct image_map_builder *builder, const struct extent *extent)
{
	return extent->guest_off == builder->end && aligned(extent->guest_off) && aligned(extent->host_off) &&
	       extent->length > 0 && extent->length <= IMAGE_MAP_OFF_MAX &&
	       extent->guest_off <= IMAGE_MAP_OFF_MAX - extent->length &&
	       extent->host_off <= IMAGE_MAP_OFF_MAX - extent->length;
}

int image_map_builder_add(struct image_map_builder *builder, const struct extent *extent)
{
	if (builder->error)
		return builder->error;
	if (!extent_fits(builder, extent))
		return builder->error = -EUCLEAN;

	builder->end = extent->guest_off + extent->length;
	if (builder->count > 0) {
		const struct map_entry *last = &builder->entries[builder->count - 1];

		if (last->host_off + (extent->guest_off - last->guest_off) == extent->host_off)
			return 0;
	}
	if (builder->count == builder->capacity) {
		int rc = builder_reserve(builder, builder->capacity * 2);
		if (rc < 0)
			return builder->error = rc;
	}
	builder->entries[builder->count++] =
	        (struct map_entry){.guest_off = extent->guest_off, .host_off = extent->host_off};
	return 0;
}

/* Turns the builder's array into a map. */
static int builder_make_map(struct image_map_builder *builder, uint64_t size, struct image_map **out)
{
	if (builder->error)
		return builder->error;
	if (builder->end != size)
		return -EUCLEAN;
	builder->entries[builder->count] = (struct map_entry){.guest_off = size};
	for (size_t i = builder->count + 1; i < KEY_INDEX_ROOM(builder->count); i++)
		builder->entries[i] = (struct map_entry){.guest_off = UINT64_MAX};

	int rc = host_order(builder->entries, builder->count, NULL);
	if (rc < 0)
		return rc;

	struct image_map *map = malloc(sizeof *map);
	if (!map)
		return -ENOMEM;
	struct map_entry *fitted = realloc(builder->entries, entries_bytes(builder->count));
	if (fitted)
		builder->entries = fitted;
	*map = (struct image_map){.size = size, .count = builder->count, .entries = builder->entries};
	rc = key_index_init(&map->index, &map->entries[0].guest_off, map->count, sizeof *map->entries);
	if (rc < 0) {
		free(map);
		return rc;
	}
	builder->entries = NULL;
	atomic_init(&map->references, 1);
	*out = map;
	return 0;
}

int image_map_builder_finish(struct image_map_builder *builder, uint64_t size, struct image_map **out)
{
	int rc = builder_make_map(builder, size, out);

	image_map_builder_drop(builder);
	return rc;
}

int image_map_new(const struct extent *extents, size_t count, uint64_t size, struct image_map **out)
{
	struct image_map_builder *builder;
	int rc = image_map_builder_new(count, &builder);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < count && rc == 0; i++)
		rc = image_map_builder_add(builder, &extents[i]);
	return image_map_builder_finish(builder, size, out);
}

int image_map_identity(uint64_t size, struct image_map **out)
{
	struct extent all = {.guest_off = 0, .length = size, .host_off = 0};

	if (size > IMAGE_MAP_OFF_MAX)
		return -EFBIG;
	return image_map_new(&all, size > 0, size, out);
}

struct image_map *image_map_ref(struct image_map *map)
{
	atomic_fetch_add_explicit(&map->references, 1, memory_order_relaxed);
	return map;
}

void image_map_unref(struct image_map *map)
{
	if (!map || atomic_fetch_sub_explicit(&map->references, 1, memory_order_acq_rel) != 1)
		return;
	key_index_free(&map->index);
	free(map->entries);
	free(map);
}

uint64_t image_map_size(const struct image_map *map)
{
	return map->size;
}

size_t image_map_count(const struct image_map *map)
{
	return map->count;
}

struct extent image_map_get(const struct image_map *map, size_t index)
{
	assert(index < map->count);
	const struct map_entry *entry = &map->entries[index];

	return (struct extent){
	        .guest_off = entry->guest_off,
	        .length = entry[1].guest_off - entry->guest_off,
	        .host_off = entry->host_off,
	};
}

bool image_map_is_identity(const struct image_map *map)
{
	return map->count == 0 || (map->count == 1 && map->entries[0].host_off == 0);
}

uint64_t image_map_host_end(const struct image_map *map)
{
	uint64_t end = 0;

	for (size_t i = 0; i < map->count; i++) {
		struct extent extent = image_map_get(map, i);
		if (extent.host_off + extent.length > end)
			end = extent.host_off + extent.length;
	}
	return end;
}

size_t image_map_find(const struct image_map *map, uint64_t guest_off)
{
	size_t first = key_index_group(&map->index, guest_off) * KEY_INDEX_FANOUT;
	const struct map_entry *group = &map->entries[first];

	assert(guest_off < map->size);
	return first + key_index_place(&group->guest_off, sizeof *group / sizeof group->guest_off, guest_off);
}

void image_map_lookup(const struct image_map *map, uint64_t guest_off, uint64_t max_length, struct extent *out)
{
	const struct map_entry *entry = &map->entries[image_map_find(map, guest_off)];
	uint64_t length = entry[1].guest_off - guest_off;

	*out = (struct extent){
	        .guest_off = guest_off,
	        .length = length < max_length ? length : max_length,
	        .host_off = entry->host_off + (guest_off - entry->guest_off),
	};
}

/* Appends what the map has at [old_off, old_off + length), as if it stood at new_off. */
static int append_range(struct image_map_builder *builder, const struct image_map *map, uint64_t new_off,
                        uint64_t old_off, uint64_t length)
{
	if (length == 0)
		return 0;
	for (size_t i = image_map_find(map, old_off); length > 0; i++) {
		const struct map_entry *entry = &map->entries[i];
		uint64_t here = entry[1].guest_off - old_off;
		struct extent extent = {
		        .guest_off = new_off,
		        .length = here < length ? here : length,
		        .host_off = entry->host_off + (old_off - entry->guest_off),
		};
		int rc = image_map_builder_add(builder, &extent);

		if (rc < 0)
			return rc;
		new_off += extent.length;
		old_off += extent.length;
		length -= extent.length;
	}
	return 0;
}

static bool range_inside(uint64_t off, uint64_t length, uint64_t size)
{
	return length > 0 && off <= size && length <= size - off;
}

/* The order of the moves by the offsets that they come from. -EINVAL if two of them come from the same bytes. */
static int order_by_old(const struct map_move *moves, size_t count, uint32_t *order)
{
	uint64_t sum = 0;
	cleanup_free struct map_entry *entries = malloc((count + 1) * sizeof *entries);

	if (!entries || count > IMAGE_MAP_COUNT_MAX)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		if (!aligned(moves[i].old_off))
			return -EINVAL;
		entries[i] = (struct map_entry){.guest_off = sum, .host_off = moves[i].old_off};
		sum += moves[i].length;
	}
	entries[count] = (struct map_entry){.guest_off = sum};
	int rc = host_order(entries, count, order);
	return rc == -EUCLEAN ? -EINVAL : rc;
}

/* One of the two sides of a list of moves, as maximal ranges: advances *i and returns the next range's bounds. Without
 * an order it is the new side, which the moves are sorted by. */
static bool next_range(const struct map_move *moves, size_t count, const uint32_t *old_order, size_t *i,
                       uint64_t *start, uint64_t *end)
{
	if (*i == count)
		return false;
	*start = *end = old_order ? moves[old_order[*i]].old_off : moves[*i].new_off;
	for (; *i < count; ++*i) {
		const struct map_move *move = &moves[old_order ? old_order[*i] : *i];
		if ((old_order ? move->old_off : move->new_off) != *end)
			break;
		*end += move->length;
	}
	return true;
}

/* 0 if the moves, whose new sides are in order, are a bijection on the bytes that they name; -EINVAL. */
static int check_bijection(const struct map_move *moves, size_t count, uint64_t size)
{
	uint64_t end = 0;
	cleanup_free uint32_t *old_order = malloc((count + 1) * sizeof *old_order);

	if (!old_order)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		if (!range_inside(moves[i].new_off, moves[i].length, size) ||
		    !range_inside(moves[i].old_off, moves[i].length, size) || moves[i].new_off < end)
			return -EINVAL;
		end = moves[i].new_off + moves[i].length;
	}
	int rc = order_by_old(moves, count, old_order);
	if (rc < 0)
		return rc;

	for (size_t i = 0, j = 0;;) {
		uint64_t new_start = 0, new_end = 0, old_start = 0, old_end = 0;
		bool more_new = next_range(moves, count, NULL, &i, &new_start, &new_end);
		bool more_old = next_range(moves, count, old_order, &j, &old_start, &old_end);

		if (more_new != more_old || new_start != old_start || new_end != old_end)
			return -EINVAL;
		if (!more_new)
			return 0;
	}
}

static int append_permuted(struct image_map_builder *builder, const struct image_map *map, const struct map_move *moves,
                           size_t count)
{
	uint64_t pos = 0;
	int rc = 0;

	for (size_t i = 0; i < count && rc == 0; i++) {
		rc = append_range(builder, map, pos, pos, moves[i].new_off - pos);
		if (rc == 0)
			rc = append_range(builder, map, moves[i].new_off, moves[i].old_off, moves[i].length);
		pos = moves[i].new_off + moves[i].length;
	}
	return rc == 0 ? append_range(builder, map, pos, pos, map->size - pos) : rc;
}

int image_map_permute(const struct image_map *map, const struct map_move *moves, size_t count, struct image_map **out)
{
	struct image_map_builder *builder;
	int rc = check_bijection(moves, count, map->size);

	if (rc < 0)
		return rc;
	rc = image_map_builder_new(map->count + 1, &builder);
	if (rc < 0)
		return rc;
	append_permuted(builder, map, moves, count);
	rc = image_map_builder_finish(builder, map->size, out);
	return rc == -EUCLEAN ? -EINVAL : rc; /* misaligned moves */
}

int image_map_relocate(const struct image_map *map, const struct extent *places, size_t count, struct image_map **out)
{
	struct image_map_builder *builder;
	uint64_t pos = 0;
	int rc = image_map_builder_new(map->count + 1, &builder);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < count && rc == 0; i++) {
		if (places[i].guest_off < pos || !range_inside(places[i].guest_off, places[i].length, map->size)) {
			image_map_builder_drop(builder);
			return -EINVAL;
		}
		rc = append_range(builder, map, pos, pos, places[i].guest_off - pos);
		if (rc == 0)
			rc = image_map_builder_add(builder, &places[i]);
		pos = places[i].guest_off + places[i].length;
	}
	if (rc == 0)
		rc = append_range(builder, map, pos, pos, map->size - pos);
	if (rc < 0) {
		image_map_builder_drop(builder);
		return rc;
	}
	return image_map_builder_finish(builder, map->size, out);
}

/* Appends the space between the old size and the new one. An odd-sized image first gets the rest of its last unit,
 * which lies behind its last extent: no other extent can begin within a unit, so that is free. */
static int append_grown(struct image_map_builder *builder, const struct image_map *map, uint64_t size,
                        uint64_t host_off)
{
	uint64_t pos = map->size;
	uint64_t padding = (IMAGE_MAP_UNIT - pos % IMAGE_MAP_UNIT) % IMAGE_MAP_UNIT;

	if (padding > size - pos)
		padding = size - pos;
	if (padding > 0) {
		struct map_entry *last = &builder->entries[builder->count - 1];
		uint64_t last_end = last->host_off + (pos - last->guest_off);

		if (last_end > IMAGE_MAP_OFF_MAX - padding)
			return -EFBIG;
		if (!aligned(host_off)) { /* the natural continuation is welcome as well */
			if (host_off != last_end)
				return -EUCLEAN;
			host_off += padding;
		}
		pos += padding;
		builder->end = pos;
	}
	if (pos == size)
		return 0;
	struct extent added = {.guest_off = pos, .length = size - pos, .host_off = host_off};
	return image_map_builder_add(builder, &added);
}

int image_map_resize(const struct image_map *map, uint64_t size, uint64_t host_off, struct image_map **out)
{
	struct image_map_builder *builder;

	if (size > IMAGE_MAP_OFF_MAX)
		return -EFBIG;
	int rc = image_map_builder_new(map->count + 1, &builder);
	if (rc < 0)
		return rc;
	rc = append_range(builder, map, 0, 0, size < map->size ? size : map->size);
	if (rc == 0 && size > map->size)
		rc = append_grown(builder, map, size, host_off);
	if (rc < 0) {
		image_map_builder_drop(builder);
		return rc;
	}
	return image_map_builder_finish(builder, size, out);
}

size_t guest_range_find(const struct guest_range *ranges, size_t count, uint64_t guest_off)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (ranges[middle].guest_off + ranges[middle].length <= guest_off)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

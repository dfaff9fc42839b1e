/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * image_map: where each byte that the guest sees lies in the host's data file.
 *
 * An immutable, ordered array of extents that covers [0, size) without a gap, so that a lookup below size cannot miss.
 * No two extents share a host byte. All boundaries are multiples of 512, except that the last extent of an odd-sized
 * image may end anywhere. Adjacent extents that are contiguous on both sides are always merged.
 *
 * A map never changes once made: whoever wants another one makes it and swaps the pointer. Reference counts are atomic;
 * every other function only reads the map and may be called from any thread. 17 bytes an extent.
 */
#ifndef ZCFS_IMAGE_MAP_H
#define ZCFS_IMAGE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMAGE_MAP_UNIT 512u /* granularity of extents, bytes */
#define IMAGE_MAP_OFF_MAX ((uint64_t)INT64_MAX) /* offsets and sizes are off_t on the host */

struct image_map;

/* One extent in exchange form; all three in bytes. */
struct extent {
	uint64_t guest_off;
	uint64_t length;
	uint64_t host_off;
};

/* A part of what the guest sees, in bytes. */
struct guest_range {
	uint64_t guest_off;
	uint64_t length;
};

/* "What the guest finds at new_off is what it found at old_off", for length bytes. */
struct map_move {
	uint64_t new_off;
	uint64_t old_off;
	uint64_t length;
};

/* The map that leaves everything where it is. -EFBIG if size > IMAGE_MAP_OFF_MAX, -ENOMEM. */
int image_map_identity(uint64_t size, struct image_map **out);

/* From count extents in guest order. Checks everything that the head of this file promises: -EUCLEAN if the extents do not
 * cover [0, size) exactly, are misaligned, overflow or share host bytes; -ENOMEM. The extents are copied. */
int image_map_new(const struct extent *extents, size_t count, uint64_t size, struct image_map **out);

/* The same, fed one extent at a time (the database does this; nothing is held twice).
 * After an error from add the builder must still be finished or dropped. finish() consumes the builder in every case. */
struct image_map_builder;
int image_map_builder_new(size_t count_hint, struct image_map_builder **out);
int image_map_builder_add(struct image_map_builder *builder, const struct extent *extent);
int image_map_builder_finish(struct image_map_builder *builder, uint64_t size, struct image_map **out);
void image_map_builder_drop(struct image_map_builder *builder);

struct image_map *image_map_ref(struct image_map *map);
void image_map_unref(struct image_map *map); /* NULL is allowed */

uint64_t image_map_size(const struct image_map *map); /* bytes, as the guest sees it */
size_t image_map_count(const struct image_map *map);  /* extents */
struct extent image_map_get(const struct image_map *map, size_t index);
bool image_map_is_identity(const struct image_map *map);
uint64_t image_map_host_end(const struct image_map *map); /* first host byte past every extent; 0 if empty */

/* The mapping at guest_off: *out starts exactly there and runs to the end of its extent, or max_length if that is less.
 * guest_off must be below size (asserted). O(log n). */
void image_map_lookup(const struct image_map *map, uint64_t guest_off, uint64_t max_length, struct extent *out);

/* The index of the extent that contains guest_off, which must be below size. O(log n). */
size_t image_map_find(const struct image_map *map, uint64_t guest_off);

/* A new map in which the guest finds at each move's new_off what it found at old_off. The moves must be a bijection: sorted by
 * new_off, not overlapping there, and their old ranges must be, taken together, exactly the same bytes as their new
 * ranges; otherwise -EINVAL. Everything outside the moves stays. -ENOMEM. No host byte gains or loses a mapping. */
int image_map_permute(const struct image_map *map, const struct map_move *moves, size_t count, struct image_map **out);

/* The map of an image cut or grown to size; what is added is mapped to [host_off, ...) (ignored when shrinking), which must
 * be unmapped (-EUCLEAN) and aligned like guest offsets. */
int image_map_resize(const struct image_map *map, uint64_t size, uint64_t host_off, struct image_map **out);

/* The map in which each of the places, which are in guest order and do not overlap, lies at its host_off; the rest stays.
 * -EINVAL if the places are not so or leave [0, size); -EUCLEAN if host bytes would be shared or are misaligned; -ENOMEM. */
int image_map_relocate(const struct image_map *map, const struct extent *places, size_t count, struct image_map **out);

/* Of ranges that ascend and do not overlap: the first one that ends behind guest_off; count if there is none. O(log count). */
size_t guest_range_find(const struct guest_range *ranges, size_t count, uint64_t guest_off);

/* Inverse lookup: host -> guest. The index keeps a reference to its map. */
struct host_index;
int host_index_new(struct image_map *map, struct host_index **out);
void host_index_free(struct host_index *index);
/* True if host_off is mapped: *out is the mapping that begins exactly there, to the end of its extent. False if not: then
 * out->host_off = host_off, out->length = the unmapped bytes from there to the next extent (UINT64_MAX - host_off at the end). */
bool host_index_lookup(const struct host_index *index, uint64_t host_off, struct extent *out);
/* True if host_off is unmapped: *start and *end are where the unmapped bytes around it begin and end (UINT64_MAX: never). */
bool host_index_unmapped(const struct host_index *index, uint64_t host_off, uint64_t *start, uint64_t *end);

#endif

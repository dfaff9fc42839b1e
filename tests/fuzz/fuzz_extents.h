/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * fuzz_extents: rows of an image map out of an input, and what must hold for a map that is made of them.
 */
#ifndef ZCFS_TESTS_FUZZ_EXTENTS_H
#define ZCFS_TESTS_FUZZ_EXTENTS_H

#include "mapdb/image_map.h"
#include "tests/fuzz/fuzz.h"

/* Usually 4 bytes: flags, length and host offset in units; flags say which of the three are any 8 bytes instead. *next
 * is the end of the extent before, and becomes that of this one. */
struct extent take_extent(struct input *input, uint64_t *next);

/* The promises of mapdb/image_map.h, looked at one extent at a time. */
void judge_map(const struct image_map *map);

#endif

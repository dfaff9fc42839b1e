/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * key_index: finds the place of a number in a long sorted array with one access to memory instead of twenty.
 *
 * Every 16th key of the array is copied, every 16th of the copies, and so on up to a level of 16 or less. A search
 * looks at six of 16 neighbours on each level, without a branch to guess wrong; all levels but the array itself stay in
 * the processor's caches. About half a byte for each key of the array. Immutable; any thread.
 */
#ifndef ZCFS_KEY_INDEX_H
#define ZCFS_KEY_INDEX_H

#include <stddef.h>
#include <stdint.h>

#define KEY_INDEX_FANOUT 16u
#define KEY_INDEX_LEVELS 8u /* 16^9 keys */

/* How many keys an array of count must have room for: it is filled up with greater ones to whole groups. */
#define KEY_INDEX_ROOM(count) (((size_t)(count) + KEY_INDEX_FANOUT - 1) / KEY_INDEX_FANOUT * KEY_INDEX_FANOUT)

struct key_index {
	unsigned int levels;
	uint64_t *keys[KEY_INDEX_LEVELS]; /* lowest first, each filled up to a multiple of the fanout; one allocation */
};

/* Over count keys at first, first + stride, ... (stride in bytes), ascending. 0 or -ENOMEM. */
int key_index_init(struct key_index *index, const uint64_t *first, size_t count, size_t stride);
void key_index_free(struct key_index *index); /* zeroed memory is allowed */

/* The number of the group of KEY_INDEX_FANOUT keys in which the last key is that is not greater than key. There must be
 * one. */
size_t key_index_group(const struct key_index *index, uint64_t key);

/* The place of that key in its group, whose keys are at group, group + stride, ... (stride in keys). All comparisons
 * of a step are independent of each other. */
static inline size_t key_index_place(const uint64_t *group, size_t stride, uint64_t key)
{
	size_t four = (size_t)(group[4 * stride] <= key) + (group[8 * stride] <= key) + (group[12 * stride] <= key);

	group += 4 * four * stride;
	return 4 * four + (group[stride] <= key) + (group[2 * stride] <= key) + (group[3 * stride] <= key);
}

#endif

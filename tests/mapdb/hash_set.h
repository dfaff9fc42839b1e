/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * hash_set: 64-bit hashes that have been seen. One thread.
 */
#ifndef ZCFS_TESTS_HASH_SET_H
#define ZCFS_TESTS_HASH_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero-initialised is empty. */
struct hash_set {
	size_t count, capacity;
	uint64_t *hashes;
};

bool hash_set_add(struct hash_set *set, uint64_t hash); /* false: it was there */
void hash_set_free(struct hash_set *set);		/* empty again */

#endif

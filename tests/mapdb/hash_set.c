/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hash_set.h"

#include <stdlib.h>

#include "check.h"

static void grow(struct hash_set *set)
{
	struct hash_set larger = {.capacity = set->capacity ? set->capacity * 2 : 1024};

	larger.hashes = calloc(larger.capacity, sizeof *larger.hashes);
	CHECK(larger.hashes);
	for (size_t i = 0; i < set->capacity; i++) {
		if (set->hashes[i])
			hash_set_add(&larger, set->hashes[i]);
	}
	free(set->hashes);
	*set = larger;
}

bool hash_set_add(struct hash_set *set, uint64_t hash)
{
	hash |= 1; /* 0 is a free place */
	if (set->count * 2 >= set->capacity)
		grow(set);
	for (size_t i = (size_t)(hash >> 20) % set->capacity;; i = (i + 1) % set->capacity) {
		if (set->hashes[i] == hash)
			return false;
		if (set->hashes[i] == 0) {
			set->hashes[i] = hash;
			set->count++;
			return true;
		}
	}
}

void hash_set_free(struct hash_set *set)
{
	free(set->hashes);
	*set = (struct hash_set){0};
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * live_map: the map that an open image goes by now, and those who use it.
 *
 * I/O borrows the current map, uses it without any lock, and returns it. A map is swapped, never changed; who swaps it
 * waits until nobody uses the old one any more. From then on nobody reads or writes a host byte that only the old map
 * names.
 *
 * Borrowing writes to no memory that other threads write to: each thread notes what it uses in a place of its own, and
 * the one who swaps, which is rare, looks into the places of all threads. Only what outlasts its thread's call is
 * counted (pinned), and what is borrowed by a thread that gets no memory for such a place.
 */
#ifndef ZCFS_LIVE_MAP_H
#define ZCFS_LIVE_MAP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "mapdb/image_map.h"

struct live_map {
	struct image_map *map;
	struct mirror *mirror; /* owned; NULL: nothing is being moved */
	atomic_uint pins;
};

/* The pointer to a live_map that others borrow through. */
struct map_pointer {
	_Atomic(struct live_map *) live;
	atomic_bool draining;
	pthread_mutex_t lock;
	pthread_cond_t returned;
};

/* A map (takes a reference) ready to be swapped in. Made before anything is committed, so that the swap cannot fail.
 * NULL: no memory. */
/* mirror, if there is one, is taken by whoever sets it. */
struct live_map *live_map_new(struct image_map *map);
void live_map_free(struct live_map *live); /* one that is not swapped in; NULL is allowed */

void map_pointer_init(struct map_pointer *pointer, struct live_map *live); /* takes live */
void map_pointer_destroy(struct map_pointer *pointer);                     /* nobody borrows any more */

/* What is borrowed must be returned by the same thread. A thread may have a few (LIVE_MAP_NESTING) at a time. */
#define LIVE_MAP_NESTING 4
struct live_map *map_pointer_borrow(struct map_pointer *pointer);
void map_pointer_return(struct map_pointer *pointer, struct live_map *live);

/* What is borrowed may be pinned, too: then it stays in use after it was returned, until any thread unpins it. For I/O
 * that no thread waits for. */
void map_pointer_pin(struct live_map *live);
void map_pointer_unpin(struct map_pointer *pointer, struct live_map *live);

/* Makes live (taken) the current one, waits for the last user of the old one and frees that. One thread at a time,
 * which must not have borrowed the old one itself. */
void map_pointer_swap(struct map_pointer *pointer, struct live_map *live);

/* True if anybody uses the current map at this moment. For who has reason to know that it is not swapped meanwhile. */
bool map_pointer_in_use(const struct map_pointer *pointer);

#endif

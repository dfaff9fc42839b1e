/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise (fs/live_map.h): who swaps waits for the last user of the old map, and for nothing else; also if a map of
 * another image lies where his did, and somebody has noted it by mistake.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/live_map.h"

#define SECONDS 20 /* longer is for ever */

static struct image_map *map;
static struct map_pointer one, other;
static atomic_bool swapped;

static struct live_map *new_map(void)
{
	struct live_map *live = live_map_new(map);

	if (!live)
		abort();
	return live;
}

static void *swap(void *pointer)
{
	map_pointer_swap(pointer, new_map());
	atomic_store(&swapped, true);
	return NULL;
}

/* Swaps while something is borrowed by way of lender; returns whether it waited for that, and then came to an end. */
static bool swap_waits(struct map_pointer *pointer, struct map_pointer *lender)
{
	struct live_map *borrowed = map_pointer_borrow(lender);
	pthread_t thread;
	bool waited;

	atomic_store(&swapped, false);
	if (pthread_create(&thread, NULL, swap, pointer) != 0)
		abort();
	usleep(100000);
	waited = !atomic_load(&swapped);
	map_pointer_return(lender, borrowed);
	for (int i = 0; i < SECONDS * 100 && !atomic_load(&swapped); i++)
		usleep(10000);
	if (!atomic_load(&swapped)) {
		fprintf(stderr, "a swap does not end\n");
		exit(1);
	}
	pthread_join(thread, NULL);
	return waited;
}

int main(void)
{
	struct live_map *shared;

	if (image_map_identity(4096, &map) < 0)
		abort();
	map_pointer_init(&one, new_map());
	if (!swap_waits(&one, &one))
		return 1;
	/* As if its place had been that of a map of the other pointer, which somebody has just noted. */
	shared = atomic_load(&one.live);
	map_pointer_init(&other, shared);
	if (!swap_waits(&one, &other))
		return 1;
	atomic_store(&other.live, new_map());
	map_pointer_destroy(&one);
	map_pointer_destroy(&other);
	image_map_unref(map);
	return 0;
}

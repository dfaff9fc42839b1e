/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise (fs/mirror.h): however many write to a piece that is being copied, the copying of it ends, and afterwards
 * both places are alike.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/mirror.h"

#define WRITERS       32
#define PIECE         (64u * 1024)
#define WRITE         4096u
#define COPIES_SHARED 3 /* as mapdb/settle_batch.c */
#define COPIES_MAX    1000

static struct mirror *mirror;
static uint8_t old_place[PIECE], new_place[PIECE];
static atomic_bool done;
static unsigned int seed;

static int write_new(void *context, uint64_t guest_off, uint64_t host_off, uint64_t length)
{
	memset(new_place + host_off - PIECE, *(uint8_t *)context, length);
	return 0;
}

static void *writer(void *number)
{
	unsigned int state = seed + (unsigned int)(uintptr_t)number;

	while (!done) {
		uint64_t guest_off = (unsigned int)rand_r(&state) % (PIECE / WRITE) * WRITE;
		uint8_t byte = (uint8_t)rand_r(&state);
		struct mirror_hold hold;

		mirror_hold(mirror, &hold, guest_off, WRITE);
		memset(old_place + guest_off, byte, WRITE);
		usleep(100); /* as long as a write takes */
		mirror_repeat(mirror, &hold, write_new, &byte);
		mirror_release(mirror, &hold);
	}
	return NULL;
}

int main(void)
{
	const struct extent window = {.length = PIECE, .host_off = PIECE};
	pthread_t threads[WRITERS];
	int rc = 1, copies = 0;

	seed = getenv("SEED") ? (unsigned int)atoi(getenv("SEED")) : (unsigned int)getpid();
	mirror = mirror_new(&window, 1);
	for (uintptr_t i = 0; i < WRITERS; i++)
		if (pthread_create(&threads[i], NULL, writer, (void *)i) != 0)
			return 1;
	for (; rc == 1 && copies < COPIES_MAX; copies++) {
		mirror_copy_begin(mirror, 0, PIECE, copies >= COPIES_SHARED);
		/* Not memcpy: the other threads write meanwhile, which is what this is about. */
		for (size_t i = 0; i < PIECE; i++)
			*(volatile uint8_t *)&new_place[i] = *(volatile uint8_t *)&old_place[i];
		rc = mirror_copy_end(mirror);
	}
	usleep(10000);
	done = true;
	for (size_t i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	mirror_free(mirror);
	if (rc != 0 || copies > COPIES_SHARED + 1 || memcmp(old_place, new_place, PIECE) != 0) {
		printf("SEED=%u: %d after %d copies, places %s\n", seed, rc, copies,
		       memcmp(old_place, new_place, PIECE) ? "differ" : "are alike");
		return 1;
	}
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/live_map.h"

#include <stdlib.h>
#include <time.h>

#include "fs/mirror.h"

#define LOOK_AGAIN_NS 10000000

/* What one thread has borrowed. Never freed, but used again by another thread when the first one has ended. */
struct borrower {
	_Atomic(struct live_map *) used[LIVE_MAP_NESTING];
	atomic_bool taken;
	struct borrower *next; /* does not change once the borrower is in the list */
} __attribute__((aligned(64)));

static _Atomic(struct borrower *) borrowers;
static _Thread_local struct borrower *mine;
static _Thread_local unsigned int pinned_instead; /* what was borrowed without memory for a place of its own */
static pthread_key_t leave_key;
static pthread_once_t leave_once = PTHREAD_ONCE_INIT;

static void leave(void *borrower)
{
	atomic_store(&((struct borrower *)borrower)->taken, false);
}

static void make_leave_key(void)
{
	if (pthread_key_create(&leave_key, leave) != 0)
		abort();
}

static struct borrower *find_free(void)
{
	for (struct borrower *b = atomic_load(&borrowers); b; b = b->next) {
		bool free_before = false;

		if (atomic_compare_exchange_strong(&b->taken, &free_before, true))
			return b;
	}
	return NULL;
}

/* This thread's first time. NULL: no memory. */
static struct borrower *join(void)
{
	struct borrower *b;

	pthread_once(&leave_once, make_leave_key);
	b = find_free();
	if (!b) {
		b = aligned_alloc(_Alignof(struct borrower), sizeof(*b));
		if (!b)
			return NULL;
		*b = (struct borrower){.next = NULL};
		atomic_init(&b->taken, true);
		b->next = atomic_load(&borrowers);
		while (!atomic_compare_exchange_weak(&borrowers, &b->next, b))
			;
	}
	if (pthread_setspecific(leave_key, b) != 0) {
		leave(b);
		return NULL;
	}
	return mine = b;
}

struct live_map *live_map_new(struct image_map *map)
{
	struct live_map *live = calloc(1, sizeof(*live));

	if (live)
		live->map = image_map_ref(map);
	return live;
}

void live_map_free(struct live_map *live)
{
	if (live)
		image_map_unref(live->map);
	if (live)
		mirror_free(live->mirror);
	free(live);
}

void map_pointer_init(struct map_pointer *pointer, struct live_map *live)
{
	pthread_condattr_t monotonic;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	atomic_init(&pointer->live, live);
	atomic_init(&pointer->draining, false);
	pthread_mutex_init(&pointer->lock, NULL);
	pthread_cond_init(&pointer->returned, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

void map_pointer_destroy(struct map_pointer *pointer)
{
	live_map_free(atomic_load(&pointer->live));
	pthread_mutex_destroy(&pointer->lock);
	pthread_cond_destroy(&pointer->returned);
}

/* The place of this thread that holds value. */
static _Atomic(struct live_map *) *find_place(struct borrower *b, const struct live_map *value)
{
	for (unsigned int i = 0; b && i < LIVE_MAP_NESTING; i++)
		if (atomic_load_explicit(&b->used[i], memory_order_relaxed) == value)
			return &b->used[i];
	return NULL;
}

/* Who swaps may be waiting for what this thread has just stopped using. */
static void tell_swapper(struct map_pointer *pointer)
{
	if (!atomic_load(&pointer->draining))
		return;
	pthread_mutex_lock(&pointer->lock);
	pthread_cond_signal(&pointer->returned);
	pthread_mutex_unlock(&pointer->lock);
}

/* Nobody swaps under the lock. */
static struct live_map *borrow_pinned(struct map_pointer *pointer)
{
	struct live_map *live;

	pthread_mutex_lock(&pointer->lock);
	live = atomic_load(&pointer->live);
	map_pointer_pin(live);
	pthread_mutex_unlock(&pointer->lock);
	pinned_instead++;
	return live;
}

struct live_map *map_pointer_borrow(struct map_pointer *pointer)
{
	struct borrower *b = mine ? mine : join();
	_Atomic(struct live_map *) *place = find_place(b, NULL);
	struct live_map *live, *now;

	if (!b)
		return borrow_pinned(pointer);
	if (!place)
		abort(); /* nested too deep */
	live = atomic_load(&pointer->live);
	/* Either who swaps sees the note, or this thread sees the swap: all four accesses have one order. */
	atomic_store(place, live);
	while ((now = atomic_load(&pointer->live)) != live) {
		live = now;
		atomic_store(place, live);
		tell_swapper(pointer);
	}
	return live;
}

void map_pointer_return(struct map_pointer *pointer, struct live_map *live)
{
	_Atomic(struct live_map *) *place = find_place(mine, live);

	if (place) {
		atomic_store(place, NULL);
		tell_swapper(pointer);
	} else if (pinned_instead > 0) {
		pinned_instead--;
		map_pointer_unpin(pointer, live);
	} else {
		abort(); /* returned what was not borrowed */
	}
}

/* Before it is returned: who swaps sees the one or the other. */
void map_pointer_pin(struct live_map *live)
{
	atomic_fetch_add(&live->pins, 1);
}

void map_pointer_unpin(struct map_pointer *pointer, struct live_map *live)
{
	if (atomic_fetch_sub(&live->pins, 1) == 1)
		tell_swapper(pointer);
}

static bool in_use(const struct live_map *live)
{
	for (struct borrower *b = atomic_load(&borrowers); b; b = b->next)
		for (unsigned int i = 0; i < LIVE_MAP_NESTING; i++)
			if (atomic_load(&b->used[i]) == live)
				return true;
	return atomic_load(&live->pins) > 0;
}

/* Mostly whoever stops using it says so, but not who has noted it by mistake: he had loaded another pointer to a map
 * that was freed then, and of which this one got the place in memory. So it is looked again. */
static void wait_for_return(struct map_pointer *pointer)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += LOOK_AGAIN_NS;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	pthread_cond_timedwait(&pointer->returned, &pointer->lock, &until);
}

void map_pointer_swap(struct map_pointer *pointer, struct live_map *live)
{
	struct live_map *old;

	pthread_mutex_lock(&pointer->lock);
	old = atomic_exchange(&pointer->live, live);
	atomic_store(&pointer->draining, true);
	while (in_use(old))
		wait_for_return(pointer);
	pthread_mutex_unlock(&pointer->lock);
	atomic_store(&pointer->draining, false);
	live_map_free(old);
}

bool map_pointer_in_use(const struct map_pointer *pointer)
{
	return in_use(atomic_load(&pointer->live));
}

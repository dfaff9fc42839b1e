/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/live_map.h"

#include <stdlib.h>

#include "fs/mirror.h"

/* What one thread has borrowed. Never freed, but used again by another thread when the first one has ended. */
struct borrower {
	_Atomic(struct live_map *) used[LIVE_MAP_NESTING];
	atomic_bool taken;
	struct borrower *next; /* does not change once the borrower is in the list */
} __attribute__((aligned(64)));

static _Atomic(struct borrower *) borrowers;
static _Thread_local struct borrower *mine;
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

/* This thread's first time. Without memory for 64 bytes there is no way to go on. */
static struct borrower *join(void)
{
	struct borrower *b;

	pthread_once(&leave_once, make_leave_key);
	b = find_free();
	if (!b) {
		b = aligned_alloc(_Alignof(struct borrower), sizeof(*b));
		if (!b)
			abort();
		*b = (struct borrower){.next = NULL};
		atomic_init(&b->taken, true);
		b->next = atomic_load(&borrowers);
		while (!atomic_compare_exchange_weak(&borrowers, &b->next, b))
			;
	}
	if (pthread_setspecific(leave_key, b) != 0)
		abort();
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
	atomic_init(&pointer->live, live);
	atomic_init(&pointer->draining, false);
	pthread_mutex_init(&pointer->lock, NULL);
	pthread_cond_init(&pointer->returned, NULL);
}

void map_pointer_destroy(struct map_pointer *pointer)
{
	live_map_free(atomic_load(&pointer->live));
	pthread_mutex_destroy(&pointer->lock);
	pthread_cond_destroy(&pointer->returned);
}

/* The place of this thread that holds value. */
static _Atomic(struct live_map *) *place_with(struct borrower *b, const struct live_map *value)
{
	for (unsigned int i = 0; i < LIVE_MAP_NESTING; i++)
		if (atomic_load_explicit(&b->used[i], memory_order_relaxed) == value)
			return &b->used[i];
	abort(); /* nested too deep, or returned what was not borrowed */
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

struct live_map *map_pointer_borrow(struct map_pointer *pointer)
{
	_Atomic(struct live_map *) *place = place_with(mine ? mine : join(), NULL);
	struct live_map *live = atomic_load(&pointer->live), *now;

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
	atomic_store(place_with(mine, live), NULL);
	tell_swapper(pointer);
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

void map_pointer_swap(struct map_pointer *pointer, struct live_map *live)
{
	struct live_map *old = atomic_exchange(&pointer->live, live);

	atomic_store(&pointer->draining, true);
	pthread_mutex_lock(&pointer->lock);
	while (in_use(old))
		pthread_cond_wait(&pointer->returned, &pointer->lock);
	pthread_mutex_unlock(&pointer->lock);
	atomic_store(&pointer->draining, false);
	live_map_free(old);
}

bool map_pointer_in_use(const struct map_pointer *pointer)
{
	return in_use(atomic_load(&pointer->live));
}

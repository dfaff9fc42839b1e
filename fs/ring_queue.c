/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/ring_queue.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/sysinfo.h>

#include "fs/coarse_clock.h"
#include "fs/ring_place.h"

/* Places in a ring that are kept free for requests which are answered at once. */
#define LINGER_RESERVE 8

struct ring_queue {
	atomic_uint lingering; /* requests */
	_Atomic(struct deferred *) offered;
	struct job help;          /* takes what is offered */
	atomic_bool help_asked;   /* and not begun: help is the workers' */
	_Atomic uint64_t busy_ns; /* when its thread was last known to be */
	struct ring_queue *next;
};

static unsigned int linger_max;
static unsigned int processors;
static _Atomic(struct ring_queue *) queues;
static _Thread_local struct ring_queue *current;

/* ---- what is answered later ---- */

struct ring_queue *ring_queue_current(void)
{
	return current;
}

bool ring_queue_may_linger(struct ring_queue *queue)
{
	if (!queue || atomic_fetch_add(&queue->lingering, 1) < linger_max)
		return true;
	atomic_fetch_sub(&queue->lingering, 1);
	return false;
}

void ring_queue_lingered(struct ring_queue *queue)
{
	if (queue)
		atomic_fetch_sub(&queue->lingering, 1);
}

/* ---- what workers do ---- */

static struct ring_queue *queue_new(void)
{
	struct ring_queue *queue = calloc(1, sizeof(*queue));

	if (!queue)
		return NULL;
	queue->next = atomic_load(&queues);
	while (!atomic_compare_exchange_weak(&queues, &queue->next, queue))
		;
	return queue;
}

/* The queue of a ring's thread: there from the thread's first request, as long as the daemon. NULL: no memory. */
static struct ring_queue *queue_of_this_thread(void)
{
	static _Thread_local struct ring_queue *own;

	if (!own)
		own = queue_new();
	return own;
}

static void run_deferred(struct job *job)
{
	struct deferred *self = (struct deferred *)job;

	current = self->queue;
	self->run(self);
	current = NULL;
}

bool ring_queue_defer(struct deferred *self)
{
	self->job.run = run_deferred;
	self->queue = current ? current : queue_of_this_thread();
	return workers_run(&self->job);
}

/* ---- what whoever is free does ---- */

static void help(struct job *job)
{
	struct ring_queue *queue = (struct ring_queue *)((char *)job - offsetof(struct ring_queue, help));
	struct deferred *offered;

	atomic_store(&queue->help_asked, false);
	offered = atomic_exchange(&queue->offered, NULL);
	if (offered)
		run_deferred(&offered->job);
}

static void ask_for_help(struct ring_queue *queue)
{
	if (atomic_exchange(&queue->help_asked, true))
		return;
	queue->help = (struct job){.run = help, .quick = true}; /* it waits for nothing */
	if (!workers_run(&queue->help))
		atomic_store(&queue->help_asked, false);
}

/* One at a time: with a second one the thread does the first itself, if nobody has begun. */
void ring_queue_offer(struct deferred *self)
{
	struct ring_queue *queue = queue_of_this_thread();
	struct deferred *older = self;

	self->queue = queue;
	if (queue) {
		older = atomic_exchange(&queue->offered, self);
		ask_for_help(queue);
	}
	if (older)
		older->run(older);
}

static void take_back(void)
{
	struct ring_queue *queue = queue_of_this_thread();
	struct deferred *offered = queue ? atomic_exchange(&queue->offered, NULL) : NULL;

	if (offered)
		offered->run(offered);
}

static void before_waiting(void)
{
	take_back();
	ring_place_wait();
}

bool ring_queue_may_offer(void)
{
	struct ring_queue *own = queue_of_this_thread();
	uint64_t now = coarse_now_ns();
	unsigned int busy = 0;

	if (!own)
		return false;
	atomic_store_explicit(&own->busy_ns, now, memory_order_relaxed);
	for (const struct ring_queue *queue = atomic_load(&queues); queue; queue = queue->next)
		busy += atomic_load_explicit(&queue->busy_ns, memory_order_relaxed) == now;
	return busy < processors;
}

/* Where libfuse does not tell when a ring's thread waits, nobody can say where it should run, either. */
static void watch_waiting(void (*before)(void))
{
#ifdef ZCFS_FUSE_RING_IO
	fuse_uring_on_idle(before);
	ring_places_init(processors);
#endif
}

void ring_queues_init(unsigned int ring_depth)
{
	linger_max = ring_depth > 2 * LINGER_RESERVE ? ring_depth - LINGER_RESERVE : ring_depth / 2;
	processors = (unsigned int)get_nprocs();
	watch_waiting(before_waiting);
}

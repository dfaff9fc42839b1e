/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * ring_queue: the queues of FUSE over io_uring, and what their threads do not answer at once.
 *
 * A ring has one thread, and while that waits nothing is answered that comes by its ring. So it leaves to workers what
 * may have to wait, and may offer them what it could do itself but has no time for. Of what is answered much later each
 * keeps a place in its ring, so not all places may be theirs.
 *
 * NULL stands for /dev/fuse, whose threads may wait, and which has no such limit.
 */
#ifndef ZCFS_RING_QUEUE_H
#define ZCFS_RING_QUEUE_H

#include <stdbool.h>

#include "fs/fuse_api.h"
#include "fs/workers.h"

struct ring_queue;

/* ring_depth: how many requests one ring can hold. Before the first request. */
void ring_queues_init(unsigned int ring_depth);

static inline bool request_by_ring(fuse_req_t req)
{
#ifdef ZCFS_FUSE_RINGS
	return fuse_req_is_uring(req);
#else
	return false;
#endif
}

/* How many others, or so, wait at the ring of a request that the ring's thread handles and has not answered. */
static inline unsigned int requests_waiting(fuse_req_t req)
{
#ifdef ZCFS_FUSE_RING_IO
	return fuse_req_uring_waiting(req);
#else
	return 0;
#endif
}

/* The rest of a ring's request, for another thread. */
struct deferred {
	struct job job;
	void (*run)(struct deferred *self); /* answers and frees, or defers again */
	struct ring_queue *queue;
};

/* Leaves self to a worker. Takes it; false: it is still the caller's, as the daemon is ending. Of a ring's thread, or
 * of who runs it. */
bool ring_queue_defer(struct deferred *self);

/* For what waits for nothing but takes long: whoever is free first does it, a worker, or the ring's thread itself when
 * it offers the next or has nothing else to do. Takes self. Of a ring's thread. */
void ring_queue_offer(struct deferred *self);
/* Whether a worker may find an idle processor: not while the threads of rings keep all of them busy, those that call
 * this. Of a ring's thread that has something to do that takes long. */
bool ring_queue_may_offer(void);

/* The queue of the request that this worker handles now. */
struct ring_queue *ring_queue_current(void);
/* False: too many already. The queue may be NULL. */
bool ring_queue_may_linger(struct ring_queue *queue);
void ring_queue_lingered(struct ring_queue *queue);

#endif

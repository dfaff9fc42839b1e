/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * dispatch: which thread handles a request.
 *
 * Requests come by /dev/fuse, to a pool of threads that may wait, or by a ring, to the one thread of its queue that
 * must not: while it waits, nothing is answered that comes by that ring. So of the latter only reads, writes and
 * close() are tried there (file.c, data.c), and everything else is left to a worker.
 */
#ifndef ZCFS_DISPATCH_H
#define ZCFS_DISPATCH_H

#include <stdbool.h>

#include "fs/fuse_api.h"
#include "fs/workers.h"

static inline bool request_by_ring(fuse_req_t req)
{
#ifdef ZCFS_FUSE_RINGS
	return fuse_req_is_uring(req);
#else
	return false;
#endif
}

/* A queue of the transport, as far as it concerns requests that are answered much later. Each of them keeps a place in
 * its ring, so not all places may be theirs. NULL stands for /dev/fuse, which has no such limit. */
struct ring_queue;

/* How many requests one ring can hold. Before the first request. */
void dispatch_init(unsigned int ring_depth);

/* The queue of the request that this thread handles now. */
struct ring_queue *dispatch_queue(void);
/* The rest of a ring's request, for a worker. */
struct deferred {
	struct job job;
	void (*run)(struct deferred *self); /* answers and frees */
	struct ring_queue *queue;
};
/* Takes self; false: it is still the caller's, as the daemon is ending. Of a ring's thread. */
bool dispatch_defer(struct deferred *self);

/* False: too many already. The queue may be NULL. */
bool dispatch_may_linger(struct ring_queue *queue);
void dispatch_lingered(struct ring_queue *queue);

#endif

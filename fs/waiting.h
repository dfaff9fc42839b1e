/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * waiting: requests that cannot be answered yet because a tool holds an image's lock.
 *
 * A request thread must not wait for a tool: with all of them waiting, the file system would stand still, and a ring's
 * handler must not block at all. So the handler makes one attempt, and if that gives STILL_HELD leaves the request to
 * the one thread that lives here, which tries again until it works or the caller is killed. It tries instead of
 * blocking, in flock() or for a database (MAP_DB_NO_WAIT): one thread can do so for any number of requests, and an
 * interrupt cannot be lost between a check and a system call.
 *
 * A request that came by a ring keeps its place there while it waits. So that some places are always left for others,
 * the number of those who wait is limited for each ring; who comes after gets -EBUSY (see ring_queue.h).
 */
#ifndef ZCFS_WAITING_H
#define ZCFS_WAITING_H

#include <errno.h>

#include "fs/fuse_api.h"

/* What an attempt gives while somebody has the lock. It is none of the system's error numbers: the host's own EBUSY,
 * for a name that is a mount point, may last for ever, and is an answer. */
#define STILL_HELD (-4096)

/* For a result whose -EBUSY, as in mapdb, means that somebody has the image or its database. */
static inline int held_if_busy(int ret)
{
	return ret == -EBUSY ? STILL_HELD : ret;
}

struct waiting {
	fuse_req_t req;
	/* 0: done and answered. STILL_HELD: not yet. Any other error: waiting_run answers with it. */
	int (*attempt)(struct waiting *self);
	/* Frees the object, and whatever it holds, after the answer. */
	void (*release)(struct waiting *self);
	/* of waiting.c */
	struct waiting *next;
	struct ring_queue *queue;
};

/* Attempts now, and later if it must. Takes self. */
void waiting_run(struct waiting *self);

int waiting_start(void); /* starts the thread; after the last fork. 0 or -errno */
void waiting_stop(void); /* answers what still waits with EINTR and joins the thread */

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/waiting.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "fs/caller.h"
#include "fs/ring_queue.h"

#define POLL_MS 5 /* a pass takes about a second; this is lost in it */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static struct waiting *arrivals;
static bool running, stop;
static pthread_t thread;

static void finish(struct waiting *self, int error)
{
	if (error)
		fuse_reply_err(self->req, -error);
	self->release(self);
}

static bool leave_to_thread(struct waiting *self)
{
	bool taken;

	self->queue = ring_queue_current();
	if (!ring_queue_may_linger(self->queue))
		return false;
	pthread_mutex_lock(&lock);
	taken = running && !stop;
	if (taken) {
		self->next = arrivals;
		arrivals = self;
		pthread_cond_signal(&wake);
	}
	pthread_mutex_unlock(&lock);
	if (!taken)
		ring_queue_lingered(self->queue);
	return taken;
}

void waiting_run(struct waiting *self)
{
	int ret = self->attempt(self);

	if (ret == STILL_HELD && leave_to_thread(self))
		return;
	finish(self, ret == STILL_HELD ? -EBUSY : ret);
}

/* One round over those who wait: returns those who still have to. */
static struct waiting *attempt_all(struct waiting *list, bool stopping)
{
	struct waiting *left = NULL;

	while (list) {
		struct waiting *self = list;
		int ret;

		list = self->next;
		if (stopping || caller_gives_up(self->req))
			ret = -EINTR;
		else
			ret = self->attempt(self);
		if (ret == STILL_HELD) {
			self->next = left;
			left = self;
		} else {
			ring_queue_lingered(self->queue);
			finish(self, ret);
		}
	}
	return left;
}

static struct waiting *append(struct waiting *list, struct waiting *more)
{
	while (more) {
		struct waiting *next = more->next;

		more->next = list;
		list = more;
		more = next;
	}
	return list;
}

static void *wait_for_locks(void *unused)
{
	struct waiting *list = NULL;
	bool stopping = false;

	while (!stopping) {
		pthread_mutex_lock(&lock);
		while (!list && !arrivals && !stop)
			pthread_cond_wait(&wake, &lock);
		list = append(list, arrivals);
		arrivals = NULL;
		stopping = stop;
		pthread_mutex_unlock(&lock);

		list = attempt_all(list, stopping);
		if (list && !stopping)
			nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
	}
	return unused;
}

int waiting_start(void)
{
	int ret = -pthread_create(&thread, NULL, wait_for_locks, NULL);

	if (ret == 0)
		running = true;
	return ret;
}

void waiting_stop(void)
{
	if (!running)
		return;
	pthread_mutex_lock(&lock);
	stop = true;
	pthread_cond_signal(&wake);
	pthread_mutex_unlock(&lock);
	pthread_join(thread, NULL);
	running = false;
}

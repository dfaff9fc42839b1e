/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * workers: a queue and threads that are started when no other is free. They stay: what they take up while idle is a
 * stack that is mostly not there.
 */
#include "fs/workers.h"

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "fs/thread.h"

#define STALL_MS 1

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t arrived = PTHREAD_COND_INITIALIZER;
static pthread_cond_t watch_wanted = PTHREAD_COND_INITIALIZER;
static pthread_cond_t all_done = PTHREAD_COND_INITIALIZER;

/* under lock */
static struct job *first, **last = &first;
static unsigned int queued, idle, threads, threads_max;
static unsigned int on_quick_jobs; /* threads that will be done soon, as far as is known */
static uint64_t stalls, taken_jobs;
static bool stopped = true, watching;

static struct job *take(void)
{
	struct job *job = first;

	first = job->next;
	if (!first)
		last = &first;
	queued--;
	taken_jobs++;
	return job;
}

static void *work(void *unused);

/* One more thread to look at the queue. */
static void wake_one(void)
{
	if (queued > idle && threads < threads_max && thread_start("worker", work, NULL) == 0)
		threads++;
	else
		pthread_cond_signal(&arrived);
}

static void *work(void *unused)
{
	pthread_mutex_lock(&lock);
	for (;;) {
		struct job *job;
		uint64_t era;
		bool quick;

		while (!first) {
			idle++;
			if (stopped && idle == threads)
				pthread_cond_signal(&all_done);
			pthread_cond_wait(&arrived, &lock);
			idle--;
		}
		job = take();
		quick = job->quick;
		era = stalls;
		on_quick_jobs += quick;
		if (!quick && first)
			wake_one();
		pthread_mutex_unlock(&lock);
		job->run(job);
		pthread_mutex_lock(&lock);
		if (quick && era == stalls)
			on_quick_jobs--;
	}
	return unused;
}

/* Sees to it that no job waits long behind one that was not quick after all. */
static void *watch(void *unused)
{
	pthread_mutex_lock(&lock);
	for (;;) {
		uint64_t before = taken_jobs;

		watching = first;
		if (!watching) {
			pthread_cond_wait(&watch_wanted, &lock);
			continue;
		}
		pthread_mutex_unlock(&lock);
		nanosleep(&(struct timespec){.tv_nsec = STALL_MS * 1000000L}, NULL);
		pthread_mutex_lock(&lock);
		if (first && taken_jobs == before) {
			stalls++;
			on_quick_jobs = 0;
			wake_one();
		}
	}
	return unused;
}

void workers_start(unsigned int count)
{
	pthread_mutex_lock(&lock);
	threads_max = count;
	threads = thread_start("worker", work, NULL) == 0;
	stopped = threads == 0 || thread_start("watch", watch, NULL) < 0;
	pthread_mutex_unlock(&lock);
}

bool workers_run(struct job *job)
{
	bool taken;

	pthread_mutex_lock(&lock);
	taken = !stopped;
	if (taken) {
		job->next = NULL;
		*last = job;
		last = &job->next;
		queued++;
		if (!job->quick || on_quick_jobs == 0)
			wake_one();
		else if (!watching)
			pthread_cond_signal(&watch_wanted);
	}
	pthread_mutex_unlock(&lock);
	return taken;
}

bool workers_at_work(void)
{
	bool at_work;

	pthread_mutex_lock(&lock);
	at_work = threads - idle > on_quick_jobs;
	pthread_mutex_unlock(&lock);
	return at_work;
}

void workers_stop(void)
{
	pthread_mutex_lock(&lock);
	stopped = true;
	while (first || idle < threads)
		pthread_cond_wait(&all_done, &lock);
	pthread_mutex_unlock(&lock);
}

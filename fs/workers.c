/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * workers: a queue and threads that are started when no other is free. They stay: what they take up while idle is a
 * stack that is mostly not there.
 */
#include "fs/workers.h"

#include <pthread.h>
#include <signal.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t arrived = PTHREAD_COND_INITIALIZER;
static pthread_cond_t all_done = PTHREAD_COND_INITIALIZER;

/* under lock */
static struct job *first, **last = &first;
static unsigned int queued, idle, threads, threads_max;
static bool stopped = true;

static void *work(void *unused)
{
	pthread_mutex_lock(&lock);
	for (;;) {
		struct job *job;

		while (!first) {
			idle++;
			if (stopped && idle == threads)
				pthread_cond_signal(&all_done);
			pthread_cond_wait(&arrived, &lock);
			idle--;
		}
		job = first;
		first = job->next;
		if (!first)
			last = &first;
		queued--;
		pthread_mutex_unlock(&lock);
		job->run(job);
		pthread_mutex_lock(&lock);
	}
	return unused;
}

/* Signals are for the main thread. */
static bool start_thread(void)
{
	sigset_t all, before;
	pthread_t thread;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ret = pthread_create(&thread, NULL, work, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (ret != 0)
		return false;
	pthread_detach(thread);
	threads++;
	return true;
}

void workers_start(unsigned int count)
{
	pthread_mutex_lock(&lock);
	threads_max = count;
	stopped = false;
	pthread_mutex_unlock(&lock);
}

bool workers_run(struct job *job)
{
	bool taken;

	pthread_mutex_lock(&lock);
	/* Without a new thread, those that there are will come to it. */
	taken = !stopped && (queued < idle || (threads < threads_max && start_thread()) || threads > 0);
	if (taken) {
		job->next = NULL;
		*last = job;
		last = &job->next;
		queued++;
		pthread_cond_signal(&arrived);
	}
	pthread_mutex_unlock(&lock);
	return taken;
}

void workers_stop(void)
{
	pthread_mutex_lock(&lock);
	stopped = true;
	while (first || idle < threads)
		pthread_cond_wait(&all_done, &lock);
	pthread_mutex_unlock(&lock);
}

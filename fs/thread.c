/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/thread.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

/* The main thread is bound to nothing but what the whole daemon is bound to. */
bool thread_unbind(pthread_t thread)
{
	cpu_set_t processors;

	return sched_getaffinity(getpid(), sizeof(processors), &processors) == 0 &&
	       pthread_setaffinity_np(thread, sizeof(processors), &processors) == 0;
}

int thread_start(const char *name, void *(*run)(void *), void *argument)
{
	sigset_t all, before;
	pthread_t thread;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ret = -pthread_create(&thread, NULL, run, argument);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (ret < 0)
		return ret;
	thread_unbind(thread);
	pthread_setname_np(thread, name);
	pthread_detach(thread);
	return 0;
}

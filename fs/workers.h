/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * workers: threads for what a ring's handler must not wait for. Where requests come by /dev/fuse none is ever started.
 *
 * Most jobs wait for something, and each gets a thread at once. Some only might, if things are bad: these quick ones, which
 * mostly take less time than it takes to wake a thread, are done one after another by one thread that is awake anyway, as
 * long as it gets on; when it has not for a millisecond, others come to help.
 */
#ifndef ZCFS_WORKERS_H
#define ZCFS_WORKERS_H

#include <stdbool.h>

struct job {
	void (*run)(struct job *self); /* answers its request and frees itself */
	bool quick; /* most probably */
	struct job *next;
};

/* At most count threads at a time. After the last fork. */
void workers_start(unsigned int count);

/* Runs the job in one of the threads, soon. Any thread. False: the daemon is ending, or no thread can be had; the job
 * is still the caller's. */
bool workers_run(struct job *job);

/* Whether jobs are under way that may be waiting for something: the quick ones only after a while. Any thread; by the
 * time it is answered it may be otherwise. */
bool workers_at_work(void);

/* Waits until all jobs that were taken are done; takes no more. */
void workers_stop(void);

#endif

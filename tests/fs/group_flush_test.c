/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise (fs/group_flush.h): of many who flush, each gets one that began after he came; two are never under way at the
 * same time, so nobody has an answer while a failure is not noted yet; who wants the whole gets it.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/group_flush.h"

#define THREADS 16
#define CALLS   50

/* A disk that loses everything at a certain flush, and tells of it to that one only. */
static struct {
	atomic_int under_way;
	atomic_uint flushes, whole_flushes;
	atomic_uint written; /* counts writes */
	atomic_uint durable; /* of these */
	atomic_int lost;     /* the failure has happened */
	atomic_int noted;    /* and was noted for all */
} disk;

static struct group_flush group;
static atomic_uint wrong;

static void flush(void *unused, bool data_only)
{
	unsigned int written = atomic_load(&disk.written);

	if (atomic_fetch_add(&disk.under_way, 1) != 0)
		atomic_fetch_add(&wrong, 1);
	atomic_fetch_add(&disk.whole_flushes, !data_only);
	if (atomic_fetch_add(&disk.flushes, 1) == CALLS)
		atomic_store(&disk.lost, EIO);
	usleep(500);
	atomic_store(&disk.durable, written);
	atomic_store(&disk.noted, atomic_load(&disk.lost));
	atomic_fetch_sub(&disk.under_way, 1);
}

static void *write_and_flush(void *number)
{
	for (int i = 0; i < CALLS; i++) {
		unsigned int mine = atomic_fetch_add(&disk.written, 1) + 1, whole = atomic_load(&disk.whole_flushes);
		bool data_only = (uintptr_t)number % 4 != 0;

		group_flush_run(&group, data_only, flush, NULL);
		if (atomic_load(&disk.durable) < mine || (!data_only && atomic_load(&disk.whole_flushes) == whole) ||
		    (atomic_load(&disk.flushes) > CALLS && !atomic_load(&disk.under_way) && !atomic_load(&disk.noted)))
			atomic_fetch_add(&wrong, 1);
	}
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS];

	group_flush_init(&group);
	for (uintptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, write_and_flush, (void *)i) != 0)
			return EXIT_FAILURE;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	group_flush_destroy(&group);
	printf("%u flushes for %u calls, %u wrong\n", disk.flushes, THREADS * CALLS, wrong);
	return wrong == 0 && disk.flushes < THREADS * CALLS / 2 ? EXIT_SUCCESS : EXIT_FAILURE;
}

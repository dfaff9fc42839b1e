/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise (fs/ring_place.h): the thread of a ring stays on its processor while it finds one request at a time and
 * answers at once; leaves it where it finds many, or most are for the disk; returns when it is not so any more; and
 * stays, or returns, while all processors are busy.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "fs/ring_place.h"

#define MANY_PROCESSORS 1000000 /* more than there are threads: one is always idle */

static cpu_set_t all, own;
static unsigned int failures;

/* Long enough to be judged by nothing that was before. */
static void handle(unsigned int requests_a_wait, unsigned int transfers_percent)
{
	unsigned int transfers = 0;

	for (unsigned int i = 1; i <= 100 * requests_a_wait; i++) {
		ring_place_request();
		if (transfers * 100 < i * transfers_percent) {
			transfers++;
			ring_place_transfer();
		}
		if (i % requests_a_wait == 0) {
			ring_place_wait();
			usleep(1000);
		}
	}
}

static void expect(const char *what, const cpu_set_t *expected)
{
	cpu_set_t now;

	if (sched_getaffinity(0, sizeof(now), &now) != 0 || !CPU_EQUAL(&now, expected)) {
		printf("%s: may run on %d processors, not %d\n", what, CPU_COUNT(&now), CPU_COUNT(expected));
		failures++;
	}
}

static void *run(void *unused)
{
	sched_setaffinity(0, sizeof(own), &own); /* as libfuse does */
	ring_places_init(MANY_PROCESSORS);
	handle(1, 0);
	expect("one at a time", &own);
	handle(20, 0);
	expect("twenty at a time", &all);
	handle(1, 0);
	expect("one at a time again", &own);
	handle(1, 100);
	expect("from the disk", &all);
	handle(1, 40);
	expect("two of five from the disk", &all);
	handle(1, 10);
	expect("one of ten from the disk", &own);
	handle(1, 40);
	expect("two of five from the disk, again", &own);
	handle(20, 0);
	expect("twenty at a time again", &all);
	ring_places_init(0);
	handle(20, 0);
	expect("twenty at a time, all processors busy", &own);
	handle(1, 100);
	expect("from the disk, all processors busy", &own);
	return NULL;
}

int main(void)
{
	pthread_t thread;

	if (sched_getaffinity(0, sizeof(all), &all) != 0) {
		perror("sched_getaffinity");
		return 1;
	}
	CPU_ZERO(&own);
	for (int i = 0; CPU_COUNT(&own) == 0; i++) {
		if (CPU_ISSET(i, &all))
			CPU_SET(i, &own);
	}
	if (CPU_EQUAL(&own, &all)) {
		printf("there is one processor only\n");
		return 77;
	}
	if (pthread_create(&thread, NULL, run, NULL) != 0 || pthread_join(thread, NULL) != 0)
		return 1;
	return failures > 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise (fs/ring_place.h): the thread of a ring stays on its processor while it finds one request at a time and
 * answers at once; leaves it where it finds many, or most are for the disk; returns when it is not so any more; and
 * stays, or returns, while all processors are busy.
 */
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
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

/* One after the other. */
static const struct step {
	const char *what;
	unsigned int requests_a_wait, transfers_percent, processors;
	bool away; /* in the end */
} steps[] = {
        {"one at a time", 1, 0, MANY_PROCESSORS, false},
        {"twenty at a time", 20, 0, MANY_PROCESSORS, true},
        {"one at a time again", 1, 0, MANY_PROCESSORS, false},
        {"from the disk", 1, 100, MANY_PROCESSORS, true},
        {"two of five from the disk", 1, 40, MANY_PROCESSORS, true},
        {"one of ten from the disk", 1, 10, MANY_PROCESSORS, false},
        {"two of five from the disk, again", 1, 40, MANY_PROCESSORS, false},
        {"twenty at a time again", 20, 0, MANY_PROCESSORS, true},
        {"twenty at a time, all processors busy", 20, 0, 0, false},
        {"from the disk, all processors busy", 1, 100, 0, false},
};

static void try_step(const struct step *step)
{
	const cpu_set_t *expected = step->away ? &all : &own;
	cpu_set_t now;

	ring_places_init(step->processors);
	handle(step->requests_a_wait, step->transfers_percent);
	if (sched_getaffinity(0, sizeof(now), &now) != 0 || !CPU_EQUAL(&now, expected)) {
		printf("%s: may run on %d processors, not %d\n", step->what, CPU_COUNT(&now), CPU_COUNT(expected));
		failures++;
	}
}

static void *run(void *unused)
{
	sched_setaffinity(0, sizeof(own), &own); /* as libfuse does */
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		try_step(&steps[i]);
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

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/ring_place.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fs/coarse_clock.h"
#include "fs/thread.h"
#include "mapdb/cleanup.h"

/* Of requests at least so many, in at least that time, are looked at together. */
#define LOOK_REQUESTS 16
#define LOOK_NS       8000000

/* Requests that were handled for each time that was waited: from the one on the thread leaves its processor, below the
 * other it returns. A client that has one on its way makes it 1, with two 2 to 3, with four 5 and more, and it falls
 * when the thread has left. */
#define LEAVE_DEPTH      4
#define RETURN_DEPTH     3
/* Of a hundred requests, those that are for the disk. */
#define LEAVE_TRANSFERS  50
#define RETURN_TRANSFERS 25

static unsigned int processors;
static int load_fd = -1; /* of /proc/loadavg; -1: not to be had */

static _Thread_local struct place {
	bool away;
	cpu_set_t own;   /* away: where it was bound to */
	bool would_move; /* said the last look */
	uint64_t since_ns;
	unsigned int requests, transfers, waits; /* since then */
} place;

/* Threads of the whole machine that run or could run, this one among them. 0: not known. */
static unsigned int count_running(void)
{
	unsigned int running;
	char text[128];
	ssize_t n = pread(load_fd, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	return sscanf(text, "%*f %*f %*f %u/", &running) == 1 ? running : 0;
}

static bool is_processor_idle(void)
{
	unsigned int running = count_running();

	return running > 0 && running <= processors;
}

static void leave(void)
{
	place.away = sched_getaffinity(0, sizeof(place.own), &place.own) == 0 && thread_unbind(pthread_self());
}

static void come_back(void)
{
	place.away = sched_setaffinity(0, sizeof(place.own), &place.own) != 0;
}

static bool reaches(unsigned int depth, unsigned int transfers_percent)
{
	return place.requests >= depth * (uint64_t)(place.waits > 0 ? place.waits : 1) ||
	       place.transfers * UINT64_C(100) >= place.requests * (uint64_t)transfers_percent;
}

static bool is_better_away(void)
{
	return (place.away ? reaches(RETURN_DEPTH, RETURN_TRANSFERS) : reaches(LEAVE_DEPTH, LEAVE_TRANSFERS)) &&
	       is_processor_idle();
}

/* Believes only the second look in succession that says so: a processor may have been idle, or not, for a moment. */
static void look(void)
{
	bool would_move = is_better_away() != place.away;

	if (would_move && place.would_move && place.away)
		come_back();
	else if (would_move && place.would_move)
		leave();
	place.would_move = would_move;
}

/* In a container it may be another daemon's (lxcfs): a ring's thread must not wait for that. -1: none, or not the
 * kernel's own. */
static int open_load(void)
{
	cleanup_fd int fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
	struct statfs status;

	return fd >= 0 && fstatfs(fd, &status) == 0 && status.f_type == PROC_SUPER_MAGIC ? steal_fd(&fd) : -1;
}

void ring_places_init(unsigned int processors_online)
{
	processors = processors_online;
	if (load_fd < 0)
		load_fd = open_load();
}

void ring_place_request(void)
{
	uint64_t now;

	if (++place.requests < LOOK_REQUESTS)
		return;
	now = coarse_now_ns();
	if (now - place.since_ns < LOOK_NS)
		return;
	look();
	place.since_ns = now;
	place.requests = place.transfers = place.waits = 0;
}

void ring_place_transfer(void)
{
	place.transfers++;
}

void ring_place_wait(void)
{
	place.waits++;
}

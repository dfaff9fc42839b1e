/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * settle: how fast a pass goes, and when it gives way.
 */
#include "mapdb/settle_internal.h"

#include <time.h>

#define PAUSE_NS    INT64_C(5000000) /* how often it is asked whether to stop */
#define SECOND_NS   INT64_C(1000000000)
#define PIECE_MIN   (64u << 10)
#define PIECES_EACH 256 /* second */
#define CATCH_UP    2   /* times the rate, at most, after a sync or a commit took its time */
#define LATE_NS     SECOND_NS
#define AHEAD_NS    (60 * SECOND_NS) /* more than that is from when the rate was another one */

int64_t settle_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * SECOND_NS + now.tv_nsec;
}

uint64_t settle_piece(const struct settle_limits *limits)
{
	uint64_t piece = limits->rate ? limits->rate / PIECES_EACH / PIECE_MIN * PIECE_MIN : SETTLE_PIECE;

	if (piece < PIECE_MIN)
		return PIECE_MIN;
	return piece < SETTLE_PIECE ? piece : SETTLE_PIECE;
}

void settle_pace_add(struct settle_pace *pace, uint64_t rate, uint64_t bytes)
{
	if (rate == 0)
		return;
	int64_t cost_ns = (int64_t)((double)bytes / (double)rate * (double)SECOND_NS);
	if (pace->due_ns < pace->begun_ns - LATE_NS) /* what was not used in time is lost */
		pace->due_ns = pace->begun_ns - LATE_NS;
	pace->due_ns += cost_ns;
	pace->not_before_ns = pace->begun_ns + cost_ns / CATCH_UP;
}

static int64_t time_to_wait(struct settle_pace *pace)
{
	int64_t next_ns = pace->due_ns > pace->not_before_ns ? pace->due_ns : pace->not_before_ns;
	int64_t wait_ns = next_ns - settle_now_ns();

	if (wait_ns < AHEAD_NS)
		return wait_ns;
	*pace = (struct settle_pace){.due_ns = settle_now_ns()};
	return 0;
}

static void pause_a_bit(int64_t ns)
{
	struct timespec pause = {.tv_nsec = (long)(ns < PAUSE_NS ? ns : PAUSE_NS)};

	nanosleep(&pause, NULL);
}

bool settle_wait(struct settle *settle, const struct settle_limits *limits, int64_t end_ns)
{
	for (;;) {
		if (settle->hooks.stop(settle->hooks.context) || (end_ns && settle_now_ns() >= end_ns))
			return true;
		int64_t ahead_ns = limits->rate ? time_to_wait(&settle->pace) : 0;
		if (ahead_ns <= 0 && !(limits->idle && settle->hooks.busy(settle->hooks.context))) {
			settle->pace.begun_ns = settle_now_ns();
			return false;
		}
		pause_a_bit(ahead_ns > 0 ? ahead_ns : PAUSE_NS);
	}
}

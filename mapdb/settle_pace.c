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
#define PUNCHING_NS INT64_C(100000) /* after so long without a pause, one that is as long */

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

void settle_pace_add(struct settle_pace *pace, uint64_t bytes)
{
	if (pace->rate == 0)
		return;
	int64_t cost_ns = (int64_t)((double)bytes / (double)pace->rate * (double)SECOND_NS);
	if (pace->due_ns < pace->begun_ns - LATE_NS) /* what was not used in time is lost */
		pace->due_ns = pace->begun_ns - LATE_NS;
	pace->due_ns += cost_ns;
	pace->not_before_ns = pace->begun_ns + cost_ns / CATCH_UP;
}

static int64_t time_to_wait(struct settle_pace *pace, uint64_t rate)
{
	int64_t now_ns = settle_now_ns();

	if (pace->rate != rate)
		*pace = (struct settle_pace){.rate = rate, .due_ns = now_ns};
	return (pace->due_ns > pace->not_before_ns ? pace->due_ns : pace->not_before_ns) - now_ns;
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
		int64_t ahead_ns = time_to_wait(&settle->pace, limits->rate);
		if (ahead_ns <= 0 && !(limits->idle && settle->hooks.busy(settle->hooks.context))) {
			settle->pace.begun_ns = settle_now_ns();
			return false;
		}
		pause_a_bit(ahead_ns > 0 ? ahead_ns : PAUSE_NS);
	}
}

/* Who waits for a lock that another one takes again at once gets it when the kernel takes pity, after milliseconds. So
 * the file is left alone for as long as it was kept from others. */
static void leave_alone(void *context)
{
	struct settle *settle = context;
	int64_t now_ns = settle_now_ns(), spent_ns = now_ns - settle->punching_ns, end_ns = now_ns + spent_ns;

	if (!settle->gently || spent_ns < PUNCHING_NS)
		return;
	while (now_ns < end_ns && !settle->hooks.stop(settle->hooks.context)) {
		pause_a_bit(end_ns - now_ns);
		now_ns = settle_now_ns();
	}
	settle->punching_ns = now_ns;
}

struct host_puncher settle_puncher(struct settle *settle)
{
	settle->punching_ns = settle_now_ns();
	return (struct host_puncher){
	        .io = settle->io, .data_fd = settle->data_fd, .between = leave_alone, .context = settle};
}

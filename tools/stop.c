/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/stop.h"

#include <math.h>
#include <signal.h>

#include "tools/monotonic.h"

static volatile sig_atomic_t stop_signal;
static double deadline = INFINITY; /* CLOCK_MONOTONIC, seconds */

static void note_signal(int number)
{
	stop_signal = number;
}

void stop_on_signals(void)
{
	/* No SA_RESTART: a wait for an image ends with EINTR. */
	struct sigaction stop = {.sa_handler = note_signal};
	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	sigaction(SIGHUP, &stop, NULL);
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	sigaction(SIGIO, &ignore, NULL);
	sigaction(SIGXFSZ, &ignore, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
}

bool stop_requested(void)
{
	return stop_signal != 0;
}

void stop_after(double seconds)
{
	deadline = monotonic_seconds() + seconds;
}

double stop_seconds_left(void)
{
	return deadline - monotonic_seconds();
}

bool stop_time_is_up(void)
{
	return stop_seconds_left() <= 0;
}

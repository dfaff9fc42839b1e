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

void stop_on_signal(int number)
{
	/* No SA_RESTART: a wait for an image ends with EINTR. */
	struct sigaction stop = {.sa_handler = note_signal};
	sigaction(number, &stop, NULL);
}

void stop_on_signals(void)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction inherited, ignore = {.sa_handler = SIG_IGN}, usual = {.sa_handler = SIG_DFL};
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		if (sigaction(signals[i], NULL, &inherited) == 0 && inherited.sa_handler != SIG_IGN)
			stop_on_signal(signals[i]);
	/* Who ignores it, as whoever starts us may, is told nothing of his children. */
	sigaction(SIGCHLD, &usual, NULL);
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

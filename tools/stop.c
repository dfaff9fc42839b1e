/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/stop.h"

#include <signal.h>

static volatile sig_atomic_t stop_signal;

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

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * progress: how far a pass has come, on a terminal's last line; and the user's wish to stop it.
 *
 * SIGINT, SIGTERM and SIGHUP only set a flag, which the pass sees at its next progress report. One thread, one
 * process-wide instance of the signal handlers.
 */
#ifndef ZCFS_PROGRESS_H
#define ZCFS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "defrag/guest_pass.h"

struct progress {
	const char *image; /* printable */
	bool show;
	bool shown; /* something stands on the line */
	struct timespec last;
};

/* Installs the handlers. SIGIO is ignored: a broken lease raises it, and its default action would kill in mid-pass. */
void stop_on_signals(void);
bool stop_requested(void);

/* True if standard error is a terminal that can erase a line. */
bool progress_possible(void);
/* The callback of struct pass_options; context is a struct progress. */
int progress_report(void *context, unsigned int volume, enum pass_phase phase, uint64_t done, uint64_t total);
void progress_erase(struct progress *progress);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * progress: how far a command has come: a bar on a terminal's last line, with rate and estimate, for what takes longer
 * than a moment; a line for each phase in a log (--verbose); and a line at any time for who sends SIGUSR1. All to
 * standard error. One process-wide instance of the signal's handler. The user's wish to stop (tools/stop.h) reaches the
 * work through the callbacks.
 */
#ifndef ZCFS_PROGRESS_H
#define ZCFS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "defrag/guest_pass.h"
#include "tools/stop.h"

struct progress {
	const char *image; /* printable */
	bool bar, lines;
	bool shown;     /* something stands on the terminal's last line */
	double started; /* CLOCK_MONOTONIC, seconds: the work, ... */
	double drawn;   /* ... the last drawing, ... */
	double since;   /* ... and what is going on now, which had done first_done then */
	char what[80];
	bool bytes;
	uint64_t first_done, done, total;
};

/* From here on SIGUSR1 asks for a line. interrupts: it ends a wait with EINTR; otherwise whatever can be goes on. */
void progress_on_signal(bool interrupts);

/* Whether somebody has asked for a line since the last call, where there is no struct progress to print it. */
bool progress_line_wanted(void);

struct progress progress_start(const char *image, bool quiet, bool verbose);
/* What is going on, and how much of it is done: bytes or some other unit; total 0: not known. */
void progress_show(struct progress *progress, const char *what, uint64_t done, uint64_t total, bool bytes);
/* Nothing is new, but time has passed. */
void progress_tick(struct progress *progress);
void progress_erase(struct progress *progress);

/* The callback of struct pass_options; context is a struct progress. */
int progress_report(void *context, unsigned int volume, enum pass_phase phase, uint64_t done, uint64_t total);
/* The same for image_to_plain(). */
bool progress_plain(void *context, uint64_t done, uint64_t total);

#endif

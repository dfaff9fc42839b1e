/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REDRAW_MS 100

bool progress_possible(void)
{
	const char *terminal = getenv("TERM");
	return isatty(STDERR_FILENO) && terminal && *terminal && strcmp(terminal, "dumb") != 0;
}

static bool time_to_redraw(struct progress *progress)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	int64_t elapsed_ms =
	        (now.tv_sec - progress->last.tv_sec) * 1000 + (now.tv_nsec - progress->last.tv_nsec) / 1000000;
	if (progress->shown && elapsed_ms < REDRAW_MS)
		return false;
	progress->last = now;
	return true;
}

static void print_share(struct progress *progress, uint64_t done, uint64_t total)
{
	if (total > 0)
		fprintf(stderr, " %u%%", (unsigned int)((double)(done < total ? done : total) * 100 / (double)total));
	fflush(stderr);
	progress->shown = true;
}

int progress_report(void *context, unsigned int volume, enum pass_phase phase, uint64_t done, uint64_t total)
{
	struct progress *progress = context;
	if (stop_requested())
		return 1;
	if (!progress->show || !time_to_redraw(progress))
		return 0;
	fprintf(stderr, "\r\033[K%.50s: ", progress->image);
	if (volume > 0)
		fprintf(stderr, "volume %u: ", volume);
	fprintf(stderr, "%s", pass_phase_name(phase));
	print_share(progress, done, total);
	return 0;
}

bool progress_plain(void *context, uint64_t done, uint64_t total)
{
	struct progress *progress = context;
	if (stop_requested())
		return true;
	if (progress->show && time_to_redraw(progress)) {
		fprintf(stderr, "\r\033[K%.50s: to a plain file", progress->image);
		print_share(progress, done, total);
	}
	return false;
}

void progress_erase(struct progress *progress)
{
	if (!progress->shown)
		return;
	fputs("\r\033[K", stderr);
	fflush(stderr);
	progress->shown = false;
}

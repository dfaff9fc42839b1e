/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/progress.h"

#include <stdarg.h>
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

void progress_line(struct progress *progress, const char *format, ...)
{
	va_list arguments;

	if (!progress->show || !time_to_redraw(progress))
		return;
	fprintf(stderr, "\r\033[K%.50s: ", progress->image);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fflush(stderr);
	progress->shown = true;
}

#define SHARE_MAX 16

/* " 42%"; nothing of nothing. */
static const char *share(char text[SHARE_MAX], uint64_t done, uint64_t total)
{
	text[0] = '\0';
	if (total > 0)
		snprintf(text, SHARE_MAX, " %u%%",
		         (unsigned int)((double)(done < total ? done : total) * 100 / (double)total));
	return text;
}

int progress_report(void *context, unsigned int volume, enum pass_phase phase, uint64_t done, uint64_t total)
{
	struct progress *progress = context;
	char where[32] = "", percent[SHARE_MAX];
	if (stop_requested() || stop_time_is_up())
		return 1;
	if (volume > 0)
		snprintf(where, sizeof(where), "volume %u: ", volume);
	progress_line(progress, "%s%s%s", where, pass_phase_name(phase), share(percent, done, total));
	return 0;
}

bool progress_plain(void *context, uint64_t done, uint64_t total)
{
	struct progress *progress = context;
	char percent[SHARE_MAX];
	if (stop_requested())
		return true;
	progress_line(progress, "to a plain file%s", share(percent, done, total));
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

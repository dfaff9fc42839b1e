/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/progress.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tools/monotonic.h"
#include "tools/text.h"

#define MOMENT_SECONDS 0.5 /* what takes no longer gets no bar */
#define REDRAW_SECONDS 0.1
#define RATE_SECONDS   0.5 /* sooner there is no telling how fast it goes */
#define COLUMNS_LEAST  20
#define BAR_LEAST      8
#define BAR_MOST       30
#define DETAIL_MAX     128

static volatile sig_atomic_t line_wanted;

static void want_line(int number)
{
	(void)number;
	line_wanted = 1;
}

void progress_on_signal(bool interrupts)
{
	struct sigaction action = {.sa_handler = want_line, .sa_flags = interrupts ? 0 : SA_RESTART};
	sigaction(SIGUSR1, &action, NULL);
}

bool progress_line_wanted(void)
{
	bool wanted = line_wanted;
	line_wanted = 0;
	return wanted;
}

static bool can_erase_lines(void)
{
	const char *terminal = getenv("TERM");
	return isatty(STDERR_FILENO) && terminal && *terminal && strcmp(terminal, "dumb") != 0;
}

struct progress progress_start(const char *image, bool quiet, bool verbose)
{
	bool bar = !quiet && can_erase_lines();
	double now = monotonic_seconds();
	return (struct progress){.image = image, .bar = bar, .lines = verbose && !bar, .started = now, .since = now};
}

void progress_erase(struct progress *progress)
{
	if (!progress->shown)
		return;
	fputs("\r\033[K", stderr);
	fflush(stderr);
	progress->shown = false;
}

/* ---- how it is put ---- */

/* "42 s", "1:05", "2:00:05". */
static void put_time(char text[32], double seconds)
{
	unsigned long whole = seconds < 1e9 ? (unsigned long)ceil(seconds) : 1000000000ul;
	if (whole < 60)
		snprintf(text, 32, "%lu s", whole);
	else if (whole < 3600)
		snprintf(text, 32, "%lu:%02lu", whole / 60, whole % 60);
	else
		snprintf(text, 32, "%lu:%02lu:%02lu", whole / 3600, whole / 60 % 60, whole % 60);
}

static double share_of(const struct progress *progress)
{
	return progress->done < progress->total ? (double)progress->done / (double)progress->total : 1;
}

/* " 42%, 12.3 MiB/s, 1:05 left", as far as that is known. */
static void put_detail(char text[DETAIL_MAX], const struct progress *progress, double now)
{
	char number[TEXT_NUMBER_MAX], left[32];
	double seconds = now - progress->since, done = (double)(progress->done - progress->first_done);
	text[0] = '\0';
	if (progress->total == 0)
		return;
	int length = snprintf(text, DETAIL_MAX, " %.0f%%", floor(share_of(progress) * 100));
	if (seconds < RATE_SECONDS || done <= 0)
		return;
	uint64_t rate = (uint64_t)(done / seconds);
	put_time(left, (1 - share_of(progress)) * (double)progress->total * seconds / done);
	snprintf(text + length, DETAIL_MAX - (size_t)length, ", %s/s, %s left",
	         progress->bytes ? text_bytes(number, rate) : text_number(number, rate), left);
}

static size_t terminal_columns(void)
{
	struct winsize size;
	const char *columns = getenv("COLUMNS");
	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		return size.ws_col;
	return columns && atoi(columns) > 0 ? (size_t)atoi(columns) : 80;
}

/* "IMAGE: volume 1: scan [####......] 42%, 12,345/s, 3 s left", of which the bar and the name give way to the rest. The
 * last column stays free: some terminals begin a new line after it. */
static void draw(struct progress *progress, double now)
{
	char detail[DETAIL_MAX], name[TEXT_COLUMNS_MAX + 1], bar[BAR_MOST + 1] = "";
	size_t columns = terminal_columns();
	columns = columns > COLUMNS_LEAST ? columns - 1 : COLUMNS_LEAST - 1;
	put_detail(detail, progress, now);
	for (char *last; strlen(progress->what) + strlen(detail) > columns && (last = strrchr(detail, ','));)
		*last = '\0';
	size_t needed = 2 + strlen(progress->what) + strlen(detail);
	size_t room = columns > needed ? columns - needed : 0;
	if (progress->total > 0 && room >= BAR_LEAST + 3 + 12) {
		size_t length = room / 2 < BAR_MOST ? room / 2 : BAR_MOST;
		size_t full = (size_t)(share_of(progress) * (double)length);
		memset(bar, '.', length);
		memset(bar, '#', full);
		bar[length] = '\0';
		room -= length + 3;
	}
	text_end_of(name, progress->image, "", room < 4 ? 4 : room < 80 ? room : 80);
	fputs("\r\033[K", stderr);
	if (room >= 4)
		fprintf(stderr, "%s: ", name);
	fprintf(stderr, *bar ? "%.*s [%s]%s" : "%.*s%s%s", (int)columns, progress->what, bar, detail);
	fflush(stderr);
	progress->shown = true;
	progress->drawn = now;
}

static void print_line(struct progress *progress, double now)
{
	char detail[DETAIL_MAX], running[32];
	put_detail(detail, progress, now);
	put_time(running, now - progress->started);
	progress_erase(progress);
	fprintf(stderr, "zcfs-defrag: %s: %s%s; running for %s\n", progress->image,
	        *progress->what ? progress->what : "starting", detail, running);
}

void progress_tick(struct progress *progress)
{
	if (!progress->bar && !line_wanted)
		return;
	double now = monotonic_seconds();
	if (progress_line_wanted())
		print_line(progress, now);
	if (progress->bar && now - progress->started >= MOMENT_SECONDS && now - progress->drawn >= REDRAW_SECONDS)
		draw(progress, now);
}

void progress_show(struct progress *progress, const char *what, uint64_t done, uint64_t total, bool bytes)
{
	bool other = strcmp(progress->what, what) != 0;
	if (other || done < progress->done || total != progress->total) {
		progress->since = monotonic_seconds();
		progress->first_done = done;
	}
	progress->done = done;
	progress->total = total;
	progress->bytes = bytes;
	if (other) {
		snprintf(progress->what, sizeof(progress->what), "%s", what);
		if (progress->lines)
			fprintf(stderr, "zcfs-defrag: %s: %s\n", progress->image, what);
	}
	progress_tick(progress);
}

/* ---- callbacks ---- */

int progress_report(void *context, unsigned int volume, enum pass_phase phase, uint64_t done, uint64_t total)
{
	struct progress *progress = context;
	char what[sizeof(progress->what)];
	if (stop_requested() || stop_time_is_up())
		return 1;
	if (volume == 0 && phase == PHASE_READ && total == 0) { /* the child has said nothing for a while */
		progress_tick(progress);
		return 0;
	}
	snprintf(what, sizeof(what), "%s", pass_phase_name(phase));
	if (volume > 0)
		snprintf(what, sizeof(what), "volume %u: %s", volume, pass_phase_name(phase));
	progress_show(progress, what, done, total, false);
	return 0;
}

bool progress_plain(void *context, uint64_t done, uint64_t total)
{
	if (stop_requested())
		return true;
	progress_show(context, "to a plain file", done, total, true);
	return false;
}

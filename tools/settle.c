/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/settle.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>

#include "mapdb/image_settle.h"
#include "mapdb/settle_ioctl.h"
#include "tools/monotonic.h"

#define STEP_MS          4000 /* how long the daemon is left alone with a step */
#define END_AGAIN_US     100000
#define TIMER_SECONDS    1e9  /* the same as never */
#define GIVE_WAY_SECONDS 10.0 /* where there are no leases nobody can be seen who waits */

/* One way to make a step. */
struct stepper {
	int (*step)(struct stepper *stepper, const struct settle_limits *limits, struct settle_progress *progress);
	const struct defrag_options *options;
	struct settle_report *report;
	int image_fd;
	struct image *image;
	struct image_settle *settle;
};

static void note(struct settle_report *report, const struct settle_progress *step)
{
	report->extents_before = step->extents_before;
	report->extents_after = step->extents;
	report->bytes_moved = step->bytes_moved;
	report->bytes_left = step->bytes_left;
	report->finished = step->finished;
}

static bool somebody_waits(const struct stepper *stepper, double started)
{
	const struct image *image = stepper->image;

	return image && (image_wanted(image) || (!image->leased && monotonic_seconds() - started > GIVE_WAY_SECONDS));
}

static int run(struct stepper *stepper, struct progress *progress)
{
	double started = monotonic_seconds();

	progress_show(progress, "settling", 0, 0, true); /* how much, the first step says */
	while (!stepper->report->finished && !stepper->report->plain) {
		struct settle_limits limits = {
		        .rate = stepper->options->settle.rate,
		        .idle = stepper->options->settle.idle,
		        .step_ms = STEP_MS,
		};
		struct settle_progress step;
		double left = stop_seconds_left();

		if (stop_requested())
			return -EINTR;
		if (left <= 0)
			return 0;
		if (left * 1000 < STEP_MS)
			limits.step_ms = (unsigned int)(left * 1000) + 1;
		int error = stepper->step(stepper, &limits, &step);
		if (error == -EINTR && !stop_requested()) { /* somebody asks how far it is */
			progress_tick(progress);
			continue;
		}
		if (error)
			return error;
		note(stepper->report, &step);
		progress_show(progress, "settling", step.bytes_planned - step.bytes_left, step.bytes_planned, true);
		if (!step.finished && somebody_waits(stepper, started))
			return -EAGAIN;
	}
	return 0;
}

static int step_mounted(struct stepper *stepper, const struct settle_limits *limits, struct settle_progress *progress)
{
	struct settle_request request = {
	        .threshold = stepper->options->settle.threshold,
	        .rate = limits->rate,
	        .step_ms = limits->step_ms,
	        .flags = limits->idle ? SETTLE_REQUEST_IDLE : 0,
	};
	snprintf(request.text, sizeof(request.text), "%.*s", (int)sizeof(request.text) - 1, stepper->options->text);
	if (ioctl(stepper->image_fd, SETTLE_IOC_STEP, &request) < 0)
		return -errno;
	stepper->report->plain = request.flags & SETTLE_REQUEST_PLAIN;
	*progress = (struct settle_progress){
	        .bytes_planned = request.bytes_planned,
	        .bytes_left = request.bytes_left,
	        .bytes_moved = request.bytes_moved,
	        .extents_before = request.extents_before,
	        .extents = request.extents,
	        .finished = request.flags & SETTLE_REQUEST_FINISHED,
	};
	return 0;
}

static void end_step(int number)
{
}

/* The daemon ends its copying by its own clock, but knows of no end of its pauses: a signal ends these, too. Again and
 * again, because the first one may come between two steps. */
int settle_mounted(int image_fd, const struct defrag_options *options, struct progress *progress,
                   struct settle_report *report)
{
	struct stepper stepper = {.step = step_mounted, .options = options, .report = report, .image_fd = image_fd};
	double left = fmin(stop_seconds_left(), TIMER_SECONDS);
	struct itimerval end = {.it_value = {.tv_sec = (time_t)ceil(left)}, .it_interval = {.tv_usec = END_AGAIN_US}},
	                 off = {0};
	struct sigaction action = {.sa_handler = end_step}, before;

	sigaction(SIGALRM, &action, &before); /* no SA_RESTART */
	setitimer(ITIMER_REAL, &end, NULL);
	int error = run(&stepper, progress);
	setitimer(ITIMER_REAL, &off, NULL);
	sigaction(SIGALRM, &before, NULL);
	return error;
}

static int step_unmounted(struct stepper *stepper, const struct settle_limits *limits, struct settle_progress *progress)
{
	return image_settle_step(stepper->settle, limits, progress);
}

static bool user_stops(void *context)
{
	progress_tick(context);
	return stop_requested() || stop_time_is_up();
}

int settle_unmounted(struct image *image, const struct defrag_options *options, struct progress *progress,
                     struct settle_report *report)
{
	const struct settle_options settle_options = {.threshold = options->settle.threshold, .text = options->text};
	struct stepper stepper = {.step = step_unmounted, .options = options, .report = report, .image = image};

	report->plain = image->bundle_fd < 0;
	if (report->plain)
		return 0;
	int error = image_settle_new(image, &settle_options, user_stops, progress, &stepper.settle);
	if (error)
		return error;
	error = run(&stepper, progress);
	image_settle_free(stepper.settle);
	return error;
}

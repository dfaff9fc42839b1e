/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/defrag_image.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mapdb/cleanup.h"
#include "tools/discard.h"
#include "tools/locate.h"
#include "tools/lock_wait.h"
#include "tools/monotonic.h"
#include "tools/overlays.h"
#include "tools/progress.h"
#include "tools/report_html.h"
#include "tools/text.h"
#include "tools/users.h"

/* RELEASE reaches the daemon some time after the last close(): right after a guest has ended, the file is still open.
 */
#define LEASE_PATIENCE_MS 2000
#define WAIT_STEP_MS      250
/* The lock of a killed pass lives until its sandboxed child has noticed. */
#define GRACE_SECONDS     0.5
/* "xl shutdown -w" returns when the guest has powered off, a moment before its disks are detached. */
#define LEAVING_SECONDS   5

/* A domain that is being created has the image for a disk before anybody has opened it. 0; -EBUSY: one has; -errno. */
static int check_domains(const struct location *location)
{
	struct identity identity;
	struct image_user user;
	int error = locate_identity(location, &identity);
	return error ? error : users_find_domain(&identity, &user) ? -EBUSY : 0;
}

static bool only_tries(const struct defrag_options *options)
{
	return options->mode == MODE_DRY_RUN || options->discard.dry_run;
}

static bool opened_elsewhere(const struct image *image)
{
	return image->access == IMAGE_EXCLUSIVE && !image->leased && fcntl(image->data_fd, F_SETLEASE, F_WRLCK) < 0 &&
	       errno == EAGAIN;
}

/* Looking needs no lock; with it the figures are exact. */
static int open_to_analyze(const struct location *location, struct outcome *outcome, struct image **image)
{
	int error = image_open(&io_posix, location->parent_fd, location->name, IMAGE_EXCLUSIVE, IMAGE_READ_ONLY,
	                       LEASE_PATIENCE_MS, image);
	if (error)
		outcome->in_use = error == -EBUSY;
	else
		outcome->in_use = opened_elsewhere(*image) || check_domains(location) == -EBUSY;
	if (!error || stop_requested())
		return error;
	error = image_open(&io_posix, location->parent_fd, location->name, IMAGE_UNLOCKED, IMAGE_READ_ONLY, 0, image);
	return error == -EAGAIN ? -EBUSY : error; /* a tool is at work on it */
}

static int open_exclusive(const struct location *location, const struct defrag_options *options, struct image **image)
{
	bool dry_run = only_tries(options);
	/* A wait comes back soon. Meanwhile whoever wants to open the image must not be kept out in vain. */
	int error = image_open(&io_posix, location->parent_fd, location->name, IMAGE_EXCLUSIVE,
	                       dry_run ? IMAGE_READ_ONLY : 0, options->wait ? 0 : LEASE_PATIENCE_MS, image);
	if (!error)
		error = check_domains(location);
	if (error)
		return error;
	if (dry_run)
		return opened_elsewhere(*image) ? -EBUSY : 0;
	if (!(*image)->read_only)
		return 0;
	/* Opened for writing, but redo could not be applied. */
	bool writable = (fcntl((*image)->data_fd, F_GETFL) & O_ACCMODE) == O_RDWR;
	return writable && (*image)->overlay ? -EINPROGRESS : -EROFS;
}

static int undo(struct image *image, const struct defrag_options *options, struct outcome *outcome)
{
	struct run_record run = {
	        .operation = "undo",
	        .options = options->text,
	        .started_unix_s = time(NULL),
	        .extents_before = image_map_count(image->map),
	};
	int error = image_undo(image, &run);
	outcome->report.redo_pending = error == -EINPROGRESS && !image->in_doubt;
	outcome->undone = !error || outcome->report.redo_pending;
	return outcome->undone ? 0 : error;
}

static int make_plain(const struct location *location, struct image *image, const struct defrag_options *options,
                      struct outcome *outcome)
{
	struct progress progress = progress_start(outcome->image, options->quiet, options->verbose);
	struct plain_options plain = {.method = options->plain, .progress = progress_plain, .context = &progress};

	/* Where it becomes another file the space of the old one is to be free when this ends, for the next image: so a
	 * mount's daemon must not be the last to let go of it. */
	int old = fcntl(image->data_fd, F_DUPFD_CLOEXEC, 0);
	int error = image_to_plain(image, &plain, &outcome->plain);
	if (!error)
		locate_again(location);
	if (old >= 0)
		close(old);
	progress_erase(&progress);
	return error;
}

static bool volume_found(const struct pass_report *report, unsigned int number)
{
	for (size_t i = 0; i < report->volume_count; i++) {
		if (report->volumes[i].number == number)
			return report->volumes[i].result != VOLUME_SKIPPED;
	}
	return false;
}

/* Whether it tells of the worst files: a pass has no time to lose for what nobody can do about any more. */
static bool tells_of_worst(const struct defrag_options *options)
{
	return (options->mode == MODE_ANALYZE || options->mode == MODE_DRY_RUN) && (options->json || !options->quiet);
}

static void explain_missing(const char *file, struct outcome *outcome)
{
	outcome->exit_code = EXIT_FAILED;
	snprintf(outcome->cause, sizeof(outcome->cause),
	         "has no file \"%.300s\" on its NTFS volumes; nothing has been changed", file);
	snprintf(outcome->remedy, sizeof(outcome->remedy),
	         "give its path from the root of its volume, as in Users/x/big.vhd; use --only for patterns");
}

static struct pass_options pass_options_of(const struct image *image, const struct defrag_options *options,
                                           struct outcome *outcome, struct progress *progress)
{
	bool lists = options->csv || options->report_file || tells_of_worst(options);
	return (struct pass_options){
	        .analyze = options->mode == MODE_ANALYZE,
	        .cost = image->access == IMAGE_EXCLUSIVE && !outcome->in_use,
	        .in_use = outcome->in_use,
	        .dry_run = options->mode == MODE_DRY_RUN,
	        .find_free = options->mode == MODE_DISCARD,
	        .pack = options->pack,
	        .order = options->order,
	        .descending = options->descending,
	        .verify_data = options->verify_data,
	        .cluster_maps = options->picture || options->picture_file || options->report_file,
	        .volume = options->volume,
	        .selection = selection_selects(&options->selection) ? &options->selection : NULL,
	        .options_text = options->text,
	        .progress = progress_report,
	        .progress_context = progress,
	        .fragmented = lists ? file_list_add : NULL,
	        .fragmented_context = &outcome->files,
	        .fragmented_max = options->csv           ? UINT64_MAX
	                          : options->report_file ? REPORT_FILES
	                                                 : WORST_FILES,
	};
}

/* The report is complete: what comes of it. */
static void judge_pass(const struct defrag_options *options, struct outcome *outcome)
{
	outcome->reported = true;
	outcome->exit_code = exit_code_of_report(&outcome->report);
	if (outcome->exit_code != EXIT_DONE || !options->volume || volume_found(&outcome->report, options->volume))
		return;
	outcome->exit_code = EXIT_FAILED;
	snprintf(outcome->cause, sizeof(outcome->cause), "has no NTFS volume %u", options->volume);
	snprintf(outcome->remedy, sizeof(outcome->remedy), "--analyze lists its volumes");
}

static int run_pass(struct image *image, const struct defrag_options *options, struct outcome *outcome)
{
	struct progress progress = progress_start(outcome->image, options->quiet, options->verbose);
	struct pass_options pass = pass_options_of(image, options, outcome, &progress);
	int error = guest_pass_run(image, &pass, &outcome->report);
	progress_erase(&progress);
	if (options->report_file)
		history_read(image, &outcome->history); /* without it there is still the rest */
	if (error == -ECANCELED && !stop_requested())
		return -ETIMEDOUT;
	if (error == -ENOENT && outcome->report.missing_file != REPORT_NO_FILE) {
		explain_missing(options->files[outcome->report.missing_file], outcome);
		return 0;
	}
	if (!error)
		judge_pass(options, outcome);
	return error;
}

/* Whoever is restored will not see what the pass has done. 0; 1: refused; -errno. */
static int refuse_if_saved(const struct location *location, const struct defrag_options *options,
                           struct outcome *outcome)
{
	struct identity identity;
	struct saved_domain saved;
	int error = locate_identity(location, &identity);
	if (error || !saved_domain_find(&options->saved, &identity, location->name, &saved))
		return error;
	outcome_explain_saved(outcome, &saved);
	return 1;
}

/* What is in an overlay belongs to the places that the image's files have now. 1: there is one; 0; -errno. */
static int find_overlay(const struct location *location, bool wait, struct overlay *overlay)
{
	struct identity identity;
	int error = locate_identity(location, &identity);
	return error ? error : overlay_find(&identity, location->parent_fd, location->name, wait, overlay);
}

/* Who depends on what the guest sees at an offset, and is not the guest itself. overlay: what was found before the
 * image was opened; meanwhile there may be another. 0; 1: refused; -errno. */
static int refuse_dependants(const struct location *location, const struct defrag_options *options,
                             struct overlay *overlay, struct outcome *outcome)
{
	int refused = refuse_if_saved(location, options, outcome);
	if (refused)
		return refused;
	int found = *overlay->name ? 1 : find_overlay(location, false, overlay);
	if (found > 0)
		outcome_explain_overlay(outcome, overlay);
	return found;
}

/* The pass finds what is free, with all refusals. */
static int discard(struct image *image, const struct defrag_options *options, struct outcome *outcome, enum step *step)
{
	bool undo_kept = false;
	int error = image_undo_kept(image, &undo_kept);
	if (!error && undo_kept && !options->discard.forget_undo) {
		outcome_explain_undo(outcome);
		return 0;
	}
	if (!error)
		error = run_pass(image, options, outcome);
	if (error || outcome->exit_code != EXIT_DONE || outcome->report.free_count == 0)
		return error;
	*step = STEP_DISCARD;
	struct progress progress = progress_start(outcome->image, options->quiet, options->verbose);
	error = discard_free(image, &outcome->report, options, &progress, &outcome->discard);
	progress_erase(&progress);
	outcome->discarded = true;
	return error;
}

static void cleanup_image(struct image **image)
{
	image_close(*image);
}

/* Through the mount if one serves the image, whether somebody uses it or not; otherwise here. */
static int settle(const struct location *location, const struct defrag_options *options, struct outcome *outcome,
                  enum step *step)
{
	struct progress progress = progress_start(outcome->image, options->quiet, options->verbose);
	__attribute__((cleanup(cleanup_image))) struct image *image = NULL;
	cleanup_fd int mounted = locate_through_mount(location);
	int error = mounted < 0 ? mounted : 0;
	if (mounted == -ENOENT) {
		error = open_exclusive(location, options, &image);
		outcome->unleased = !error && !image->leased;
	}
	if (error)
		return error;
	*step = STEP_SETTLE;
	error = image ? settle_unmounted(image, options, &progress, &outcome->settle)
	              : settle_mounted(mounted, options, &progress, &outcome->settle);
	progress_erase(&progress);
	outcome->settled = outcome->settle.plain || outcome->settle.finished || outcome->settle.extents_before > 0;
	return error;
}

/* Opens the image and does what is asked for. *step is where an error came from. */
static int attempt(const struct location *location, const struct defrag_options *options, struct overlay *overlay,
                   struct outcome *outcome, enum step *step)
{
	__attribute__((cleanup(cleanup_image))) struct image *image = NULL;
	*step = STEP_OPEN;
	if (options->mode == MODE_SETTLE)
		return settle(location, options, outcome, step);
	int error = options->mode == MODE_ANALYZE ? open_to_analyze(location, outcome, &image)
	                                          : open_exclusive(location, options, &image);
	if (error)
		return error;
	outcome->unleased = image->access == IMAGE_EXCLUSIVE && !image->leased && !outcome->in_use;
	outcome->was_plain = image->bundle_fd < 0;
	int refused = defrag_changes_view(options->mode) ? refuse_dependants(location, options, overlay, outcome) : 0;
	if (refused)
		return refused < 0 ? refused : 0;
	switch (options->mode) {
	case MODE_UNDO:
		*step = STEP_UNDO;
		return undo(image, options, outcome);
	case MODE_PLAIN:
		*step = STEP_PLAIN;
		return make_plain(location, image, options, outcome);
	case MODE_DISCARD:
		*step = STEP_PASS;
		return discard(image, options, outcome, step);
	default:
		*step = STEP_PASS;
		return run_pass(image, options, outcome);
	}
}

/* Sleeps until it may be worth another attempt. A domain's end is told; then there is the lock. A user who takes none
 * is found by the lease, which cannot be waited for. */
static void wait_for_users(const struct location *location, double seconds)
{
	struct identity identity;
	if (locate_identity(location, &identity) == 0 && users_wait_for_domain(&identity, seconds))
		return;
	if (!lock_wait(location, seconds))
		nanosleep(&(struct timespec){.tv_nsec = WAIT_STEP_MS * 1000000L}, NULL);
}

/* Asks once, and only a domain. True: asked. */
static bool ask_to_shut_down(const struct location *location, const struct outcome *outcome, bool quiet)
{
	struct identity identity;
	struct image_user user = {0};
	if (locate_identity(location, &identity) < 0 || !users_find_domain(&identity, &user) ||
	    users_ask_to_shut_down(&user) < 0)
		return false;
	if (!quiet) {
		cleanup_free char *name = text_escape(user.name, true);
		fprintf(stderr, "zcfs-defrag: %s: asked domain %u \"%s\" to shut down\n", outcome->image, user.id,
		        name ? name : "?");
	}
	return true;
}

static void explain_in_use(const struct location *location, const struct defrag_options *options, bool asked,
                           struct outcome *outcome)
{
	struct identity identity;
	if (locate_identity(location, &identity) == 0 && users_find(&identity, &outcome->user))
		outcome_explain_user(outcome, asked);
	if (options->mode == MODE_ANALYZE) /* only a tool keeps it out, and it takes no --wait */
		snprintf(outcome->remedy, sizeof(outcome->remedy), "try again when that has ended");
}

/* Whether the domain that has the image has powered off, and will be gone at any moment unless somebody keeps it. */
static bool domain_is_leaving(const struct location *location)
{
	struct identity identity;
	struct image_user user = {0};
	return locate_identity(location, &identity) == 0 && users_find_domain(&identity, &user) &&
	       user.state == DOMAIN_SHUT_DOWN;
}

/* How long an image may be in use, in seconds. */
static double patience_of(const struct defrag_options *options)
{
	double time_left = stop_seconds_left();
	if (!options->wait)
		return fmin(GRACE_SECONDS, time_left);
	return options->wait_seconds > 0 ? fmin(options->wait_seconds, time_left) : time_left;
}

static void forget_attempt(struct outcome *outcome)
{
	pass_report_free(&outcome->report);
	outcome->report = (struct pass_report){0};
	file_list_release(&outcome->files);
}

static void wait_for_next_attempt(const struct location *location, const struct defrag_options *options, double left,
                                  struct progress *waiting)
{
	if (options->wait) {
		progress_show(waiting, "waiting until nobody uses it", 0, 0, false);
		wait_for_users(location, isinf(left) ? 0 : left);
	} else {
		nanosleep(&(struct timespec){.tv_nsec = WAIT_STEP_MS * 1000000L}, NULL);
	}
}

/* An attempt that somebody's open() has ended is another reason to wait. */
static void process_located(const struct location *location, const struct defrag_options *options,
                            struct outcome *outcome)
{
	struct overlay overlay = {0};
	if (defrag_changes_view(options->mode)) /* while nobody has to wait for us; errors come again */
		find_overlay(location, true, &overlay);
	double patience = patience_of(options), deadline = monotonic_seconds() + patience;
	bool changes = options->mode != MODE_ANALYZE && !only_tries(options);
	bool asked = false, leaving = false;
	unsigned int stale = 0;
	struct progress waiting = progress_start(outcome->image, options->quiet, options->verbose);
	enum step step;
	if (changes) /* what a killed pass left may be a second link to this image, with which it would be refused */
		image_clean_stale(&io_posix, location->parent_fd, NULL, &stale);
	for (;;) {
		int error = attempt(location, options, &overlay, outcome, &step);
		progress_erase(&waiting);
		if (error && stop_requested())
			error = -EINTR;
		else if (error == -ETIMEDOUT && !stop_time_is_up()) /* a network's file system says so */
			error = -EIO;
		/* It has given way to somebody; a settle pass perhaps to a mount that can go on with it. */
		if (error == -EAGAIN) {
			deadline = monotonic_seconds() + patience;
			error = -EBUSY;
		}
		if (error == -EBUSY && !options->wait && !leaving && domain_is_leaving(location)) {
			leaving = true;
			deadline += LEAVING_SECONDS;
		}
		double left = deadline - monotonic_seconds();
		if (error != -EBUSY || left <= 0) {
			if (error)
				outcome_explain(outcome, step, error);
			if (error == -EBUSY && step == STEP_OPEN)
				explain_in_use(location, options, asked, outcome);
			break;
		}
		forget_attempt(outcome);
		if (options->shutdown && !asked)
			asked = ask_to_shut_down(location, outcome, options->quiet);
		wait_for_next_attempt(location, options, left, &waiting);
	}
	if (stale > 0) /* its owner may have been about to die */
		image_clean_stale(&io_posix, location->parent_fd, NULL, NULL);
}

void defrag_image(const char *path, const struct defrag_options *options, struct outcome *outcome)
{
	double started = monotonic_seconds();
	struct location location = LOCATION_INIT;
	int error = stop_requested() ? -EINTR : locate_image(path, &location);
	if (!error && options->mode != MODE_SETTLE && stop_time_is_up())
		error = -ETIMEDOUT;
	if (error) {
		snprintf(outcome->remedy, sizeof(outcome->remedy), "%s", location.remedy);
		outcome_explain(outcome, STEP_LOCATE, error);
	} else {
		process_located(&location, options, outcome);
		outcome->unserved = outcome->was_plain && outcome->report.changed && !locate_is_served(&location);
	}
	location_release(&location);
	outcome->seconds = monotonic_seconds() - started;
}

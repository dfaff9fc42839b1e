/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * zcfs-check: looks for damage in the images named on the command line, or in all of a store (mapdb/check.h), and
 * repairs what can be repaired without guessing.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mapdb/check.h"
#include "mapdb/cleanup.h"
#include "mapdb/name_list.h"
#include "tools/check_options.h"
#include "tools/check_print.h"
#include "tools/directory.h"
#include "tools/locate.h"
#include "tools/output.h"
#include "tools/stop.h"
#include "tools/text.h"
#include "tools/users.h"

/* RELEASE reaches the daemon some time after the last close(). */
#define LEASE_PATIENCE_MS 2000

struct run {
	const struct check_options *options;
	json_t *images; /* NULL: text */
	struct check_totals totals;
	int exit_code;
	bool lost; /* a part of the JSON document */
};

/* ---- what went wrong, in words ---- */

static void tell_cause(struct check_result *result, const char *cause, const char *remedy)
{
	snprintf(result->cause, sizeof result->cause, "%s", cause);
	if (!result->remedy[0])
		snprintf(result->remedy, sizeof result->remedy, "%s", remedy);
}

/* Who has the image, if he can be seen. */
static void tell_user(struct check_result *result, const struct location *location)
{
	struct identity identity;
	struct image_user user;
	char description[256];

	tell_cause(result, "is in use (through the mount, or by another program); not repaired",
	           "shut its guest down or stop what uses it (see fuser -v), and try again");
	if (locate_identity(location, &identity) < 0 || !users_find(&identity, &user))
		return;
	user_describe(&user, description, sizeof description);
	cleanup_free char *printable = text_escape(description, true);
	snprintf(result->cause, sizeof result->cause, "is in use by %.200s; not repaired",
	         printable ? printable : "another program");
}

/* The image is not to blame. */
static void tell_copy(struct check_result *result, int error)
{
	cleanup_free char *directory = text_escape(result->report.copy_directory, true);
	char cause[sizeof result->cause];

	snprintf(cause, sizeof cause, "its map.db cannot be copied to %.150s and looked at there: %s",
	         directory ? directory : "?", strerror(-error));
	tell_cause(result, cause,
	           error == -ENOSPC || error == -EDQUOT ? "make room for it there, or set TMPDIR to another directory"
	                                                : "set TMPDIR to a directory that can be written");
}

static void explain(struct check_result *result, int error, bool repairing)
{
	static const struct {
		int error;
		const char *cause, *remedy;
	} explanations[] = {
	        {ENOENT, "no such image or directory", ""},
	        {ENOTUNIQ, "is a part of a bundle, not an image", ""},
	        {EINVAL, "is neither a file nor a directory", ""},
	        {EBUSY, "its map database stayed locked by another program", "try again later"},
	        {EACCES, "permission denied", "run as root, or as the owner of the store"},
	        {EPERM, "not permitted", "run as root, or as the owner of the store"},
	        {ENOTCONN, "the zcfs that served this mount is gone",
	         "unmount what it left (fusermount3 -u), or start zcfs again"},
	        {EROFS, "its file system is mounted read-only; not repaired", "remount it read-write"},
	        {ENOSPC, "no space left on its file system; not repaired", "make room there, and try again"},
	        {EDQUOT, "a disk quota is used up; not repaired",
	         "raise it (the owner's, or that of the project or subvolume) or make room, and try again"},
	        {EIO, "input/output error", "check the kernel's log (dmesg) first"},
	        {EINPROGRESS, "its redo still cannot be written to the data file",
	         "make room on the host's file system or see to its disk (df, dmesg), and try again"},
	        {ECANCELED, "stopped", ""},
	        {EINTR, "stopped", ""},
	};

	if (result->report.copy_directory[0]) {
		tell_copy(result, error);
		return;
	}
	for (size_t i = 0; i < sizeof explanations / sizeof explanations[0]; i++) {
		if (explanations[i].error == -error) {
			tell_cause(result, explanations[i].cause, explanations[i].remedy);
			return;
		}
	}
	snprintf(result->cause, sizeof result->cause, "cannot be %s: %s", repairing ? "repaired" : "checked",
	         strerror(-error));
}

/* ---- one image ---- */

static bool stopped(int error)
{
	return error == -ECANCELED || error == -EINTR || stop_requested();
}

static void judge(struct check_result *result)
{
	if (check_errors(&result->report, false))
		result->exit_code |= CHECK_UNCORRECTED;
	if (check_errors(&result->report, true))
		result->exit_code |= CHECK_CORRECTED;
	if (result->cause[0])
		result->exit_code |= stop_requested() ? CHECK_CANCELLED : CHECK_OPERATIONAL;
}

/* Hands the result on, and releases it. */
static void finish(struct run *run, struct check_result *result)
{
	judge(result);
	run->exit_code |= result->exit_code;
	run->totals.errors += (unsigned int)check_errors(&result->report, false);
	run->totals.repaired += (unsigned int)check_errors(&result->report, true);
	run->totals.unchecked += !result->checked;
	check_print(result, run->options);
	bool told = !result->directory || result->report.count > 0 || result->cause[0];
	if (run->images && told)
		run->lost |= json_array_append_new(run->images, check_json(result)) != 0;
	check_report_free(&result->report);
}

static void finish_with(struct run *run, const char *path, int error, const char *remedy)
{
	struct check_result result = {.path = path};

	snprintf(result.remedy, sizeof result.remedy, "%s", remedy);
	explain(&result, error, false);
	finish(run, &result);
}

/* -EISDIR: a directory that is no bundle, nothing has been told. */
static int check_one(struct run *run, const char *path, bool named, int parent_fd, const char *name)
{
	struct check_result result = {.path = path, .named = named};
	int error = check_image(parent_fd, name, stop_requested, &result.report);

	if (error == -EISDIR) {
		check_report_free(&result.report);
		return error;
	}
	result.checked = error == 0;
	if (error == 0 && run->options->repair) {
		error = check_repair(&io_posix, parent_fd, name, LEASE_PATIENCE_MS, stop_requested, &result.report);
		if (error == -EBUSY)
			tell_user(&result, &(struct location){.parent_fd = parent_fd, .name = (char *)name});
		else if (error < 0)
			explain(&result, error, true);
	} else if (error < 0) {
		explain(&result, error, false);
	}
	if (result.report.kind == NAME_BUNDLE)
		run->totals.bundles++;
	else if (result.checked)
		run->totals.plain++;
	finish(run, &result);
	return stopped(error) ? -ECANCELED : 0;
}

/* ---- a directory ---- */

static int check_directory(struct run *run, const char *path, int directory_fd);

/* What an interrupted change has left of it is told with the directory. */
static void count_plain(struct run *run, const char *path, const struct stat *status)
{
	struct check_result result = {.path = path, .checked = true};

	result.report.kind = NAME_FILE;
	result.report.size = (uint64_t)status->st_size;
	run->totals.plain++;
	finish(run, &result);
}

static int check_entry(struct run *run, const char *path, int directory_fd, const char *name)
{
	struct stat status;
	cleanup_free char *below = NULL;

	if (fstatat(directory_fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return 0; /* gone meanwhile */
	if (asprintf(&below, "%s/%s", path, name) < 0)
		return -ENOMEM;
	if (S_ISREG(status.st_mode)) {
		count_plain(run, below, &status);
		return 0;
	}
	if (!S_ISDIR(status.st_mode))
		return 0;
	int error = check_one(run, below, false, directory_fd, name);
	if (error != -EISDIR)
		return error;
	cleanup_fd int below_fd = io_look.open(&io_look, directory_fd, name, O_RDONLY | O_DIRECTORY, 0);
	if (below_fd < 0) {
		finish_with(run, below, below_fd, "");
		return 0;
	}
	return check_directory(run, below, below_fd);
}

static int check_directory(struct run *run, const char *path, int directory_fd)
{
	cleanup_name_list struct name_list list = {0};
	struct check_result result = {.path = path, .directory = true};
	int error = directory_names(directory_fd, &list);

	for (size_t i = 0; i < list.count && !error; i++)
		error = stop_requested() ? -ECANCELED : check_entry(run, path, directory_fd, list.names[i]);
	if (!error)
		error = check_leftovers(&io_posix, directory_fd, run->options->repair, &result.report);
	result.checked = error == 0;
	if (error)
		explain(&result, error, false);
	finish(run, &result);
	return error;
}

static int check_store(struct run *run, const char *path)
{
	struct location location = LOCATION_INIT;
	int error = locate_directory(path, &location);

	run->totals = (struct check_totals){0};
	if (error)
		finish_with(run, path, error, location.remedy);
	else if (check_directory(run, path, location.parent_fd) == 0 && !run->images && !run->options->quiet)
		check_print_totals(path, &run->totals);
	location_release(&location);
	return error;
}

/* ---- everything ---- */

static void check_path(struct run *run, const char *path)
{
	struct location location = LOCATION_INIT;
	int error = locate_image(path, &location);

	if (!error)
		error = check_one(run, path, true, location.parent_fd, location.name);
	else if (error != -EISDIR) /* the root of a file system may be a store */
		finish_with(run, path, error, location.remedy);
	location_release(&location);
	if (error == -EISDIR)
		check_store(run, path);
}

static void print_json(struct run *run)
{
	json_t *document =
	        json_pack("{s:s, s:i, s:o}", "zcfs", ZCFS_VERSION, "exit_code", run->exit_code, "images", run->images);

	run->lost |=
	        !document || (json_dumpf(document, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII) != 0 && !ferror(stdout));
	putchar('\n');
	json_decref(document);
}

int main(int argc, char **argv)
{
	struct check_options options;
	struct run run = {.options = &options};
	int exit_code;

	if (io_fill_standard_fds() < 0)
		return CHECK_OPERATIONAL;
	if (check_options_parse(argc, argv, &options, &exit_code))
		return exit_code;
	stop_on_signals();
	if (options.json)
		run.images = json_array();
	for (size_t i = 0; i < options.path_count && !stop_requested(); i++)
		check_path(&run, options.paths[i]);
	if (stop_requested())
		run.exit_code |= CHECK_CANCELLED;
	if (options.json)
		print_json(&run);
	if (output_lost(stdout) || run.lost) {
		fputs("zcfs-check: the report could not be written\n", stderr);
		run.exit_code |= CHECK_OPERATIONAL;
	}
	return run.exit_code;
}

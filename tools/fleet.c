/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/fleet.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mapdb/cleanup.h"
#include "mapdb/image.h"
#include "mapdb/map_db.h"
#include "mapdb/name_list.h"
#include "tools/defrag_image.h"
#include "tools/directory.h"
#include "tools/locate.h"
#include "tools/progress.h"
#include "tools/stop.h"
#include "tools/text.h"

static void tell(const char *path, const char *what)
{
	cleanup_free char *printable = text_escape(path, true);

	fprintf(stderr, "zcfs-defrag: %s: %s\n", printable ? printable : "?", what);
}

/* ---- what there is ---- */

/* Of a directory, or of what may be one. */
static void tell_error(const char *path, int error, const char *remedy)
{
	struct outcome outcome = {0};

	snprintf(outcome.remedy, sizeof outcome.remedy, "%s", remedy);
	outcome_explain(&outcome, STEP_LOCATE, error);
	tell(path, error == -ENOENT    ? "no such directory"
	           : error == -ENOTDIR ? "is not a directory of images, which --all takes"
	                               : outcome.cause);
	if (outcome.remedy[0])
		fprintf(stderr, "  what to do: %s\n", outcome.remedy);
}

/* Whether it could be; otherwise why not is told. */
static bool looked_at(const char *path, int error)
{
	if (!error || error == -ENOENT) /* gone meanwhile */
		return true;
	tell_error(path, error, "");
	return false;
}

static bool collect(int directory_fd, const char *path, struct name_list *images);

static bool collect_entry(int directory_fd, const char *path, const char *name, struct name_list *images)
{
	enum name_kind kind = NAME_OTHER;
	struct stat status;
	cleanup_free char *below = NULL;

	if (asprintf(&below, "%s/%s", path, name) < 0)
		return looked_at(path, -ENOMEM);
	int error = image_classify(&io_look, directory_fd, name, &kind, &status);
	if (kind != NAME_OTHER || error == -EUCLEAN) /* what is wrong with it, the pass will tell */
		return looked_at(below, name_list_add(images, below));
	if (error || !S_ISDIR(status.st_mode))
		return looked_at(below, error);
	cleanup_fd int fd = openat(directory_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? looked_at(below, -errno) : collect(fd, below, images);
}

/* Goes on where something cannot be looked at. False: there was something. */
static bool collect(int directory_fd, const char *path, struct name_list *images)
{
	cleanup_name_list struct name_list names = {0};
	bool all = looked_at(path, directory_names(directory_fd, &names));

	for (size_t i = 0; i < names.count && !stop_requested(); i++)
		all &= collect_entry(directory_fd, path, names.names[i], images);
	return all;
}

/* ---- one image: a process ---- */

struct worker {
	pid_t pid; /* 0: none */
	const char *path;
	int output_fd, problems_fd; /* what it prints */
	struct drawing_part part;   /* what it draws */
	size_t number;              /* in the report */
	enum gist *gist;            /* shared with it */
};

/* Whatever somebody may want to see: most files of a store may be no images at all. */
static void draw(const struct worker *worker, const struct outcome *outcome, const struct defrag_options *options)
{
	if (!worker->part.index || (*worker->gist == GIST_NO_VOLUME && !options->verbose))
		return;
	if (drawing_part_add(&worker->part, outcome, options->mode, worker->number))
		tell(worker->path, "not enough memory for its part of the report");
	drawing_part_end(&worker->part);
}

static int work(const struct worker *worker, const struct defrag_options *options)
{
	struct outcome outcome = {.image = text_escape(worker->path, true)};

	if (!outcome.image) {
		tell(worker->path, "not enough memory; nothing has been tried");
		return EXIT_FAILED;
	}
	defrag_image(worker->path, options, &outcome);
	*worker->gist = outcome_gist(&outcome, options->mode);
	draw(worker, &outcome, options);
	int exit_code = outcome.exit_code;
	if (options->json) {
		json_t *json = outcome_json(&outcome, options);
		json_dumpf(json, stdout, JSON_REAL_PRECISION(6));
		json_decref(json);
		if (exit_code != EXIT_IN_USE)
			outcome_print_problems(&outcome);
	} else {
		outcome_print_line(&outcome, options);
	}
	outcome_release(&outcome);
	return fflush(stdout) || fflush(stderr) ? EXIT_FAILED : exit_code;
}

static int start(struct worker *worker, const char *path, const struct defrag_options *options, struct drawing *drawing)
{
	cleanup_fd int output = memfd_create("output", MFD_CLOEXEC), problems = memfd_create("problems", MFD_CLOEXEC);

	if (output < 0 || problems < 0 || !drawing_part_begin(drawing, &worker->part, &worker->number))
		return -errno;
	fflush(stdout);
	*worker->gist = GIST_PROBLEM;
	worker->path = path;
	pid_t parent = getpid(), pid = fork();
	if (pid < 0) {
		int error = -errno;
		drawing_take(drawing, &worker->part, false);
		return error;
	}
	if (pid == 0) {
		/* A pass stops where it may, and leaves nothing behind. */
		if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent || dup2(output, STDOUT_FILENO) < 0 ||
		    dup2(problems, STDERR_FILENO) < 0)
			_exit(EXIT_FAILED);
		stop_on_signal(SIGTERM); /* its parent's, whatever that itself ignores */
		progress_on_signal(false);
		_exit(work(worker, options));
	}
	worker->pid = pid;
	worker->output_fd = steal_fd(&output);
	worker->problems_fd = steal_fd(&problems);
	return 0;
}

static void copy_output(int fd, FILE *to)
{
	char buffer[4096];
	ssize_t length;

	for (off_t off = 0; (length = pread(fd, buffer, sizeof buffer, off)) > 0; off += length)
		fwrite(buffer, 1, (size_t)length, to);
	fflush(to);
}

/* ---- all of them ---- */

struct fleet {
	const struct defrag_options *options;
	json_t *json; /* NULL: text */
	struct drawing *drawing;
	struct worker *workers;
	size_t worker_count;
	size_t by_gist[GIST_PROBLEM + 1], by_exit_code[EXIT_DAMAGED + 1];
	int exit_code;
};

static void count(struct fleet *fleet, enum gist gist, int exit_code)
{
	fleet->by_gist[gist]++;
	fleet->by_exit_code[exit_code]++;
	if (exit_code != EXIT_IN_USE)
		fleet->exit_code = graver_exit_code(fleet->exit_code, exit_code);
}

static const char *killed(const struct defrag_options *options)
{
	return options->mode == MODE_DISCARD && !options->discard.dry_run
	               ? "the process that worked on it was killed; what it has given back so far stays so"
	               : "the process that worked on it was killed; nothing has been changed, or all of it";
}

static void take_json(struct fleet *fleet, const struct worker *worker)
{
	lseek(worker->output_fd, 0, SEEK_SET);
	if (json_array_append_new(fleet->json, json_loadfd(worker->output_fd, 0, NULL)) == 0)
		return;
	tell(worker->path, "not enough memory for its part of the report");
	fleet->exit_code = graver_exit_code(fleet->exit_code, EXIT_FAILED);
}

static void finish(struct fleet *fleet, struct worker *worker, int status)
{
	bool ended = WIFEXITED(status) && WEXITSTATUS(status) <= EXIT_DAMAGED;

	if (!fleet->json)
		copy_output(worker->output_fd, stdout);
	else if (ended)
		take_json(fleet, worker);
	copy_output(worker->problems_fd, stderr);
	drawing_take(fleet->drawing, &worker->part, ended);
	if (!ended)
		tell(worker->path, killed(fleet->options));
	count(fleet, ended ? *worker->gist : GIST_PROBLEM, ended ? WEXITSTATUS(status) : EXIT_FAILED);
	close(worker->output_fd);
	close(worker->problems_fd);
	worker->pid = 0;
}

static struct worker *worker_of(const struct fleet *fleet, pid_t pid)
{
	for (size_t i = 0; i < fleet->worker_count; i++) {
		if (fleet->workers[i].pid == pid)
			return &fleet->workers[i];
	}
	return NULL;
}

static void wait_for_one(struct fleet *fleet)
{
	int status;
	pid_t pid = waitpid(-1, &status, 0); /* SIGUSR1 ends it, too */
	struct worker *worker = pid > 0 ? worker_of(fleet, pid) : NULL;

	if (worker)
		finish(fleet, worker, status);
	for (size_t i = 0; stop_requested() && i < fleet->worker_count; i++) {
		if (fleet->workers[i].pid > 0)
			kill(fleet->workers[i].pid, SIGTERM);
	}
}

static bool busy(const struct fleet *fleet)
{
	for (size_t i = 0; i < fleet->worker_count; i++) {
		if (fleet->workers[i].pid > 0)
			return true;
	}
	return false;
}

static void work_on(struct fleet *fleet, const struct name_list *images)
{
	size_t next = 0;
	for (bool more; (more = next < images->count && !stop_requested() && !stop_time_is_up()) || busy(fleet);) {
		struct worker *idle = worker_of(fleet, 0);
		if (!idle || !more) {
			wait_for_one(fleet);
			if (progress_line_wanted())
				fprintf(stderr, "zcfs-defrag: begun with %zu of %zu files\n", next, images->count);
			continue;
		}
		int error = start(idle, images->names[next], fleet->options, fleet->drawing);
		if (error) {
			tell(images->names[next], strerror(-error));
			count(fleet, GIST_PROBLEM, EXIT_FAILED);
		}
		next++;
	}
	if (next < images->count || stop_requested()) {
		fprintf(stderr, "zcfs-defrag: %s; not every image has been looked at\n",
		        stop_requested() ? "stopped" : "the time of --time-limit is up");
		fleet->exit_code = graver_exit_code(fleet->exit_code, EXIT_FAILED);
	}
}

/* "DIR: 7 files: 3 defragmented, 1 in use, 3 without NTFS". */
static void print_summary(const struct fleet *fleet, const char *path, size_t image_count)
{
	static const char *const changed[] = {[MODE_DEFRAG] = "defragmented",
	                                      [MODE_DRY_RUN] = "would be defragmented",
	                                      [MODE_ANALYZE] = "fragmented",
	                                      [MODE_DISCARD] = "with space given back"};
	bool could = fleet->options->discard.dry_run;
	const struct {
		size_t count;
		const char *what;
	} parts[] = {
	        {fleet->by_gist[GIST_CHANGED], could ? "with space to give back" : changed[fleet->options->mode]},
	        {fleet->by_gist[GIST_NOTHING], "with nothing to do"},
	        {fleet->by_exit_code[EXIT_IN_USE], "in use"},
	        {fleet->by_exit_code[EXIT_REFUSED], "refused"},
	        {fleet->by_exit_code[EXIT_FAILED], "failed"},
	        {fleet->by_exit_code[EXIT_DAMAGED], "damaged"},
	        {fleet->by_gist[GIST_NO_VOLUME], "without NTFS"},
	};
	cleanup_free char *printable = text_escape(path, true);
	const char *separator = ": ";

	printf("%s: %zu %s", printable ? printable : "?", image_count, image_count == 1 ? "file" : "files");
	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
		if (parts[i].count == 0)
			continue;
		printf("%s%zu %s", separator, parts[i].count, parts[i].what);
		separator = ", ";
	}
	putchar('\n');
}

/* A bundle is one only below a mount; in it, it is a file. */
static int refuse_bundle(int directory_fd)
{
	return faccessat(directory_fd, MAP_DB_NAME, F_OK, AT_SYMLINK_NOFOLLOW) == 0 ? -ENOTDIR : 0;
}

static void run_directory(struct fleet *fleet, const char *given)
{
	cleanup_name_list struct name_list images = {0};
	struct location location = LOCATION_INIT;
	cleanup_free char *path = strdup(given);
	int error = path ? locate_directory(given, &location) : -ENOMEM;

	for (size_t length = path ? strlen(path) : 0; length > 1 && path[length - 1] == '/'; length--)
		path[length - 1] = '\0'; /* as the shell completes it */
	memset(fleet->by_gist, 0, sizeof fleet->by_gist);
	memset(fleet->by_exit_code, 0, sizeof fleet->by_exit_code);
	if (!error)
		error = refuse_bundle(location.parent_fd);
	if (error)
		tell_error(given, error, location.remedy);
	bool all = !error && collect(location.parent_fd, path, &images);
	if (!all)
		fleet->exit_code = graver_exit_code(fleet->exit_code, EXIT_FAILED);
	location_release(&location);
	work_on(fleet, &images);
	if (!fleet->json && !fleet->options->quiet && (all || images.count > 0))
		print_summary(fleet, given, images.count);
}

int fleet_run(const struct defrag_options *options, json_t *images, struct drawing *drawing)
{
	size_t jobs = options->jobs ? options->jobs : 1;
	cleanup_free struct worker *workers = calloc(jobs, sizeof *workers);
	enum gist *gists = mmap(NULL, jobs * sizeof *gists, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct fleet fleet = {
	        .options = options, .json = images, .drawing = drawing, .workers = workers, .worker_count = jobs};

	if (!workers || gists == MAP_FAILED) {
		fputs("zcfs-defrag: not enough memory; nothing has been tried\n", stderr);
		return EXIT_FAILED;
	}
	for (size_t i = 0; i < jobs; i++)
		workers[i].gist = &gists[i];
	for (size_t i = 0; i < options->image_count && !stop_requested(); i++)
		run_directory(&fleet, options->images[i]);
	munmap(gists, jobs * sizeof *gists);
	return fleet.exit_code;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The parent's side of a guest pass. It parses no guest metadata. Whatever the child sends is checked against the image
 * map and the volumes' bounds, goes into one transaction, and is committed only after the child has proven its work.
 */
#include "defrag/guest_pass.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "defrag/boot.h"
#include "defrag/figures.h"
#include "defrag/pass_internal.h"
#include "defrag/sandbox.h"
#include "defrag/worker.h"
#include "mapdb/cleanup.h"

#define POLL_MS 100

/* What a child may take; see child_memory() for the rest. The largest volumes need minutes of the one, and 2 MiB of the
 * other. */
#define CHILD_CPU_SECONDS 3600u
#define SCRATCH_BYTES_MAX (64 << 20)

#define CHILD_FAILED 1 /* its exit status for what is_the_hosts() denies */

const char *pass_phase_name(enum pass_phase phase)
{
	static const char *const names[] = {"read", "scan", "plan", "rewrite", "verify", "commit", "apply"};
	return phase < PHASE_COUNT ? names[phase] : "";
}

void pass_report_free(struct pass_report *report)
{
	for (size_t i = 0; report->pictures && i < REPORT_VOLUMES_MAX; i++) {
		cluster_map_free(report->pictures[i].before);
		cluster_map_free(report->pictures[i].after);
	}
	free(report->pictures);
	report->pictures = NULL;
	image_map_unref(report->map_before);
	image_map_unref(report->map_after);
	report->map_before = report->map_after = NULL;
	free(report->free);
	report->free = NULL;
	report->free_count = 0;
	free(report->volumes);
	report->volumes = NULL;
	report->volume_count = 0;
}

static double seconds_since(const struct timespec *start)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

/* ---- the child ---- */

/* Enough for any volume that this machine can work on, and not so much that the rest of it suffers. */
static uint64_t child_memory(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) / 4 * 3 * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Errors that are no defects, ENOSYS if the child has no sandbox. Its exit status says which of them it was; it may
 * lie, and gains nothing. */
static bool is_the_hosts(int error)
{
	return error == ENOMEM || error == EIO || error == EMFILE || error == ENFILE || error == ENOSYS ||
	       error == EFBIG;
}

static void run_child(struct pass *p, int write_fd, pid_t parent)
{
	/* A killed parent takes its child along; the parent may be gone already. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(CHILD_FAILED);
	signal(SIGINT, SIG_IGN); /* the parent decides */
	signal(SIGUSR1, SIG_IGN);
	signal(SIGTERM, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	signal(SIGXCPU, SIG_DFL);
	const struct sandbox sandbox = {
	        .read_fd = p->image->data_fd,
	        .write_fd = write_fd,
	        .scratch_fd = p->scratch_fd,
	        .memory_bytes = child_memory(),
	        .cpu_seconds = CHILD_CPU_SECONDS,
	};
	int r = sandbox_enter(&sandbox);
	if (r == 0)
		r = worker_run(p->image, p->options, write_fd, p->scratch_fd);
	else if (!is_the_hosts(-r))
		r = -ENOSYS;
	_exit(r == 0 || is_the_hosts(-r) ? -r : CHILD_FAILED);
}

static int start_child(struct pass *p, pid_t *pid)
{
	int ends[2];
	p->scratch_fd = memfd_create("partition-table", MFD_CLOEXEC);
	if (p->scratch_fd < 0 || pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	fcntl(ends[0], F_SETPIPE_SZ, 1 << 20);
	pid_t parent = getpid();
	*pid = fork();
	if (*pid == 0)
		run_child(p, ends[1], parent);
	int r = *pid >= 0 ? 0 : errno == EAGAIN ? -EUSERS : -errno;
	close(ends[1]);
	if (r < 0)
		close(ends[0]);
	else
		p->reader->fd = ends[0];
	return r;
}

/* Also after MESSAGE_END, when it has nothing left to do or to say: it is not trusted to end by itself. */
static int stop_child(pid_t pid, int *status)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* Why a child that has not come to an end has ended: its limits and the host's disk are no defects. */
static int child_error(int status)
{
	if (WIFEXITED(status) && is_the_hosts(WEXITSTATUS(status)))
		return -WEXITSTATUS(status);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU ? -ETIME : -ECHILD;
}

/* What a file in memory takes is in no limit of the child's. */
static int check_scratch(const struct pass *p)
{
	struct stat status;
	if (fstat(p->scratch_fd, &status) < 0)
		return -errno;
	return status.st_blocks <= SCRATCH_BYTES_MAX / 512 ? 0 : -ECHILD;
}

/* ---- history ---- */

static int64_t duration_ms(const struct pass *p)
{
	return (int64_t)(seconds_since(&p->started) * 1000);
}

struct run_record run_record_of(const struct pass *p)
{
	struct run_record run = {
	        .operation = "defrag",
	        .options = p->options->options_text ? p->options->options_text : "",
	        .started_unix_s = p->started_unix_s,
	        .duration_ms = duration_ms(p),
	        .files_moved = p->attributes_moved,
	        .extents_before = p->report->extents_before,
	        .extents_after = p->report->extents_after,
	        .metadata_bytes = p->report->metadata_bytes,
	};
	for (size_t i = 0; i < p->report->volume_count; i++) {
		const struct volume_report *volume = &p->report->volumes[i];
		run.volumes += volume->attributes_moved != 0;
		run.fragments_before += volume->fragments_before;
		run.fragments_after += volume->fragments_after;
	}
	return run;
}

size_t selected_files(const struct pass *p)
{
	return p->options->selection ? p->options->selection->files.count : 0;
}

int tell_progress(struct pass *p, unsigned int volume, enum pass_phase phase, uint64_t done, uint64_t total)
{
	if (!p->options->progress)
		return 0;
	return p->options->progress(p->options->progress_context, volume, phase, done, total) ? -ECANCELED : 0;
}

static int listen_to_child(struct pass *p)
{
	while (!p->ended) {
		struct message_header header;
		const uint8_t *payload;
		int received = message_receive(p->reader, POLL_MS, &header, &payload);
		int r = received < 0 ? received : check_scratch(p);
		if (r == 0 && received)
			r = take_message(p, &header, payload);
		else if (r == 0)
			r = tell_progress(p, 0, PHASE_READ, 0, 0);
		if (r < 0)
			return r == -EPIPE || r == -EBADMSG ? -ECHILD : r;
	}
	return 0;
}

/* ---- the end ---- */

/* A running guest writes the parts of its metadata one after the other. */
static void excuse_damage(struct pass_report *report)
{
	for (size_t i = 0; i < report->volume_count; i++)
		if (report->volumes[i].result == VOLUME_DAMAGED)
			report_result(&report->volumes[i], VOLUME_REFUSED, "try again when it is no longer in use",
			              "it could not be read consistently while it is in use");
}

/* NTFS that is left alone stands in nobody's way; but if there is nothing else in the image, nothing could be done, and
 * that is a refusal. */
static void gather_result(struct pass_report *report)
{
	bool any_done = false;
	for (size_t i = 0; i < report->volume_count; i++) {
		any_done |= report->volumes[i].result == VOLUME_DONE;
		if (report->volumes[i].result > report->result)
			report->result = report->volumes[i].result;
	}
	if (report->result == VOLUME_SKIPPED || (report->result == VOLUME_UNSUPPORTED && any_done))
		report->result = VOLUME_DONE;
	else if (report->result == VOLUME_UNSUPPORTED)
		report->result = VOLUME_REFUSED;
}

/* Nothing is changed in an image that is refused, whatever was planned and proven before that was known. */
static void forget_change(struct pass_report *report)
{
	report->metadata_bytes = report->redo_bytes = 0;
	for (size_t i = 0; i < report->volume_count; i++) {
		struct volume_report *volume = &report->volumes[i];
		if (volume->result == VOLUME_DONE)
			report_result(volume, VOLUME_SKIPPED, "", "nothing is changed in an image that is refused");
		figures_unchanged(volume);
		if (!report->pictures)
			continue;
		cluster_map_free(report->pictures[i].after);
		report->pictures[i].after = NULL;
	}
}

static int compare_moves(const void *a, const void *b)
{
	uint64_t x = ((const struct map_move *)a)->new_off, y = ((const struct map_move *)b)->new_off;
	return x < y ? -1 : x > y;
}

/* Volumes need not be in the order of their numbers. */
static void sort_moves(struct pass *p)
{
	for (size_t i = 1; i < p->move_count; i++) {
		if (p->moves[i].new_off < p->moves[i - 1].new_off) {
			qsort(p->moves, p->move_count, sizeof(*p->moves), compare_moves);
			return;
		}
	}
}

static int commit(struct pass *p)
{
	struct image_map *map = NULL;
	struct timespec commit_started;
	clock_gettime(CLOCK_MONOTONIC, &commit_started);
	sort_moves(p);
	int r = image_map_permute(p->image->map, p->moves, p->move_count, &map);
	if (r < 0)
		return r == -EINVAL ? -ECHILD : r;
	p->report->extents_after = image_map_count(map);
	if (!pass_only_looks(p)) {
		struct run_record run = run_record_of(p);
		r = flush_redo(p);
		if (r == 0)
			r = map_db_put_map(p->image->db, map);
		if (r == 0)
			r = map_db_update_run(p->image->db, &run);
		if (r == 0)
			r = tell_progress(p, 0, PHASE_COMMIT, 0, 1);
		if (r == 0)
			r = image_commit(p->image);
		p->report->redo_pending = r == -EINPROGRESS && !p->image->in_doubt;
		if (p->report->redo_pending)
			r = 0;
		p->begun = r < 0;
		p->report->changed = r == 0;
	}
	if (p->options->cluster_maps && !p->options->analyze)
		p->report->map_after = image_map_ref(map);
	image_map_unref(map);
	p->report->phase_seconds[PHASE_COMMIT] += seconds_since(&commit_started);
	return r;
}

/* Who misspells one of several names does not want the others done. */
static int look_for_missing(struct pass *p)
{
	for (size_t i = 0; i < selected_files(p); i++) {
		if (p->found[i])
			continue;
		p->report->missing_file = i;
		return -ENOENT;
	}
	return 0;
}

/* Moves without changes of run lists, and changes without moves, make no sense. */
static int conclude(struct pass *p)
{
	if (p->move_count && p->report->metadata_bytes)
		return commit(p);
	return p->move_count || p->report->metadata_bytes ? -ECHILD : 0;
}

static int run_pass(struct pass *p)
{
	pid_t pid = -1;
	int status = 0;
	int r = start_child(p, &pid);
	if (r < 0)
		return r;
	r = listen_to_child(p);
	int stopped = stop_child(pid, &status);
	close(p->reader->fd);
	if (r == 0)
		r = stopped;
	else if (r == -ECHILD)
		r = child_error(status);
	if (p->options->in_use)
		excuse_damage(p->report);
	gather_result(p->report);
	if (p->report->result != VOLUME_DONE)
		forget_change(p->report);
	if (r == 0 && p->report->result == VOLUME_DONE)
		r = look_for_missing(p);
	if (r == 0 && p->report->result == VOLUME_DONE)
		r = p->options->find_free ? check_free(p) : conclude(p);
	p->report->cost_known = r == 0 && p->report->result == VOLUME_DONE && !p->options->find_free &&
	                        (!p->options->analyze || p->options->cost);
	return r;
}

int guest_pass_run(struct image *image, const struct pass_options *options, struct pass_report *report)
{
	struct pass *p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	*report = (struct pass_report){.result = VOLUME_DONE, .missing_file = REPORT_NO_FILE};
	report->extents_before = report->extents_after = image_map_count(image->map);
	p->image = image;
	p->options = options;
	p->report = report;
	p->scratch_fd = -1;
	p->started_unix_s = time(NULL);
	clock_gettime(CLOCK_MONOTONIC, &p->started);
	if (options->cluster_maps) {
		report->pictures = calloc(REPORT_VOLUMES_MAX, sizeof(*report->pictures));
		report->map_before = image_map_ref(image->map);
	}
	p->reader = calloc(1, sizeof(*p->reader));
	p->window = malloc(WINDOW_SIZE);
	p->found = calloc(selected_files(p) + 1, 1);
	bool ready = p->reader && p->window && p->found && (report->pictures || !options->cluster_maps);
	int r = ready ? run_pass(p) : -ENOMEM;
	if (p->begun)
		image_rollback(image);
	if (p->scratch_fd >= 0)
		close(p->scratch_fd);
	host_index_free(p->host_index);
	free(p->reader);
	free(p->window);
	free(p->found);
	free(p->moves);
	free(p);
	return r;
}

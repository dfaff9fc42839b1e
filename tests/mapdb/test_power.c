/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: whenever power fails, in any change of an image, whatever of it the host's disk then has
 * (tests/mapdb/power.h says what that may be): guests see what they saw before it or what they see after it, and once
 * it has been reported done, what they see after it; what a guest has flushed is there; zcfs-check finds nothing that
 * it cannot repair; also if power fails again during recovery, or if the process was killed first.
 *
 * And that this test would notice if it were not so: of every sync of every change it is tried what happens if the disk
 * does not do it. Those that can be missing without harm are listed in spare_sync.c, with the reason why they are there
 * all the same.
 *
 * POWER=brief explores fewer states, POWER=deep many more. SEED=n repeats the random choices. VERBOSE=1 tells of every
 * sync.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "hash_set.h"
#include "mapdb/check.h"
#include "power.h"
#include "scenario.h"
#include "spare_sync.h"

#define STEPS_MAX 64
#define WORKERS   4

static const struct level {
	const char *name;
	unsigned int random;           /* choices at each sync */
	unsigned int random_forgotten; /* and of a disk that does not do a sync */
	unsigned int nested_every;     /* of how many states the recovery is tried */
	unsigned int killed_every;     /* of how many operations it is tried to kill the process there */
	unsigned int checked_every;    /* of how many stores after recovery zcfs-check looks at one */
	unsigned int looked_at_one;    /* of how many states */
} levels[] = {{"brief", 0, 0, 400, 29, 4, 8}, {"default", 24, 24, 100, 5, 4, 1}, {"deep", 1000, 100, 3, 1, 2, 1}};

static const struct level *level;
static int dir_fd, live_fd; /* where disks are made real; where things are recorded */
static struct io_record *record;
static struct view views[STEPS_MAX + 1]; /* before step i; after the last one */
static size_t marks[STEPS_MAX + 1];      /* operations recorded until then */

/* ---- what has been looked at ---- */

static struct hash_set states;    /* disks, with what is expected of them */
static struct hash_set recovered; /* disks after recovery that zcfs-check has seen */
static unsigned long recoveries;

/* ---- one state ---- */

struct expected {
	size_t step;
	bool done;                    /* the step was reported done */
	const struct view *only_view; /* NULL: the step's */
	size_t killed;                /* only_view: before which operation */
	bool thorough;                /* zcfs-check looks at every store after recovery */
};

static struct expected expected_after(size_t count)
{
	size_t step = 0;

	while (count > marks[step + 1])
		step++;
	return (struct expected){.step = step, .done = count == marks[step + 1]};
}

/* What a guest has written and flushed since a kill. Names that no guest has seen before the step may be lost with it:
 * who makes and removes files syncs directories, too. */
static bool written_images_same(const struct view *written, const struct view *found, const struct view *before)
{
	for (size_t i = 0; i < 2; i++) {
		if (!written->exists[i] || !before->exists[i])
			continue;
		if (!found->exists[i] || found->size[i] != written->size[i] ||
		    memcmp(found->bytes[i], written->bytes[i], written->size[i]) != 0)
			return false;
	}
	return true;
}

static bool view_expected(const struct view *found, const struct expected *expected)
{
	const struct view *old = &views[expected->step], *new = &views[expected->step + 1];

	if (expected->only_view)
		return written_images_same(expected->only_view, found, old);
	if (scenario_discards(expected->step) && !view_discarded(found, old, new))
		return false;
	if (view_same(found, new))
		return true;
	if (expected->done)
		return false;
	if (scenario_discards(expected->step))
		return true;
	return scenario_by_guest(expected->step) ? view_between(found, old, new) : view_same(found, old);
}

/* zcfs-check, and its repair if that is needed. */
static void check_clean(const char *name)
{
	struct check_report report;
	int rc = check_image(dir_fd, name, NULL, &report);

	if (rc == 0)
		rc = check_repair(&io_fast, dir_fd, name, 2000, NULL, &report);
	if (rc != 0 && rc != -ENOENT)
		check_failed_value(__FILE__, __LINE__, name, rc, 0);
	for (size_t i = 0; i < report.count; i++) {
		if (report.findings[i].error && !report.findings[i].repaired)
			check_failed(__FILE__, __LINE__, report.findings[i].text);
	}
	check_report_free(&report);
}

static void check_store(void)
{
	struct check_report report;

	check_clean("a.img");
	check_clean("b.img");
	CHECK_IS(check_leftovers(&io_fast, dir_fd, true, &report), 0);
	for (size_t i = 0; i < report.count; i++)
		CHECK(!report.findings[i].error || report.findings[i].repaired);
	check_report_free(&report);
}

static void make_real(const struct disk *disk)
{
	empty_directory(dir_fd);
	disk_make(disk, dir_fd, NULL);
}

/* Recovers what is in dir_fd, as an image's next opener does, and looks at it. */
static void recover_and_check(const struct expected *expected)
{
	static struct view found;
	static struct disk disk;
	static struct disk_inodes inodes;

	view_read(&io_fast, dir_fd, &found);
	CHECK(view_expected(&found, expected));
	recoveries++;
	disk_read(dir_fd, &disk, &inodes);
	uint64_t hash = disk_hash(&disk);
	disk_release(&disk);
	if ((!expected->thorough && hash / 64 % level->checked_every != 0) || !hash_set_add(&recovered, hash))
		return;
	view_classify(&io_fast, dir_fd, &found);
	check_store();
	view_read(&io_fast, dir_fd, &found);
	CHECK(view_expected(&found, expected));
}

static bool is_new(uint64_t hash, const struct expected *expected)
{
	uint64_t what = expected->only_view ? STEPS_MAX * 2 + expected->killed : expected->step * 2 + expected->done;

	return hash_set_add(&states, hash ^ (what + 1) * UINT64_C(0x9e3779b97f4a7c15)) &&
	       hash % level->looked_at_one == 0;
}

/* One state in eight is first repaired by zcfs-check, before anybody else has seen it. */
static bool look(const struct disk *disk, const struct expected *expected)
{
	uint64_t hash = disk_hash(disk);

	if (!is_new(hash, expected))
		return false;
	make_real(disk);
	if (hash / 64 % 8 == 0)
		check_store();
	recover_and_check(expected);
	return true;
}

/* ---- power fails again ---- */

static bool visit_nested(void *context, const struct disk *disk, size_t count)
{
	look(disk, context);
	return true;
}

/* Records the recovery of a state; what is on the disk now stays there. */
static void fail_during_recovery(const struct disk *disk, struct expected *expected)
{
	static struct view found;

	empty_directory(live_fd);
	disk_make(disk, live_fd, NULL);
	struct io_record *recovery = io_record_new(live_fd);
	view_read(io_record_io(recovery), live_fd, &found);
	const struct power_options options = {
	        .to = io_record_count(recovery), .forgotten = SIZE_MAX, .brief = true, .seed = 1};
	if (options.to > 0)
		power_enumerate(recovery, &options, visit_nested, expected);
	io_record_free(recovery);
}

static bool visit(void *context, const struct disk *disk, size_t count)
{
	struct expected expected = expected_after(count);

	if (look(disk, &expected) && disk_hash(disk) / 256 % level->nested_every == 0)
		fail_during_recovery(disk, &expected);
	return true;
}

static void fail_everywhere(size_t step, uint64_t seed)
{
	const struct power_options options = {
	        .from = marks[step] + (step > 0),
	        .to = marks[step + 1],
	        .forgotten = SIZE_MAX,
	        .random = level->random,
	        .seed = seed,
	};

	check_context("%s", scenario_name(step));
	power_enumerate(record, &options, visit, NULL);
}

/* ---- a disk that does not do a sync ---- */

static bool is_sync(const struct io_operation *operation)
{
	return operation->kind == IO_SYNC || operation->kind == IO_SYNC_DATA;
}

/* The end of what a sync that is not done can do harm to: the next one of the same. Not looked for further than two
 * steps. */
static size_t harm_end(size_t index)
{
	const struct io_operation *forgotten = io_record_get(record, index);
	size_t step = expected_after(index + 1).step;
	size_t end = marks[step + 2 < scenario_steps ? step + 3 : scenario_steps];

	for (size_t i = index + 1; i < end; i++) {
		const struct io_operation *operation = io_record_get(record, i);

		if (operation->node == forgotten->node &&
		    (operation->kind == IO_SYNC || operation->kind == forgotten->kind))
			return i;
	}
	return end;
}

/* The names of a disk, for whoever must understand a failure. */
static const char *list(const struct disk *disk)
{
	static char text[1024];
	size_t length = 0;

	text[0] = '\0';
	for (size_t i = 0; i < disk->entry_count && length < sizeof text; i++) {
		const struct disk_entry *entry = &disk->entries[i];
		int n = snprintf(text + length, sizeof text - length, " %u/%s=%u", entry->directory, entry->name,
		                 entry->node);

		length += n > 0 ? (size_t)n : 0;
	}
	return text;
}

static bool visit_forgotten(void *context, const struct disk *disk, size_t count)
{
	const bool *thorough = context;
	struct expected expected = expected_after(count);

	expected.thorough = *thorough;
	check_context("crash before operation %zu (%s):%s", count, io_record_describe(record, count), list(disk));
	look(disk, &expected);
	return true;
}

/* In a process of its own, which ends when a promise is broken, and says why. What the disk does else has been looked
 * at already. */
static bool is_noticed(const struct io_record *of, const struct power_options *options, power_visit *visit_state,
                       void *context, char *why, size_t why_size)
{
	int ends[2], status;
	size_t length = 0;
	ssize_t n;

	CHECK_IS(pipe(ends), 0);
	fflush(stdout);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		dup2(ends[1], STDERR_FILENO);
		power_enumerate(of, options, visit_state, context);
		_exit(0);
	}
	close(ends[1]);
	while (length < why_size - 1 && (n = read(ends[0], why + length, why_size - 1 - length)) > 0)
		length += (size_t)n;
	why[length] = '\0';
	close(ends[0]);
	CHECK_IS(waitpid(child, &status, 0), child);
	return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

struct tally {
	size_t states, stores;
	unsigned long recoveries;
	unsigned int syncs, noticed;
	unsigned int killed_syncs, killed_noticed; /* of those after a kill */
};

static void tell(const char *where, size_t index, const struct io_record *of, const char *what)
{
	if (!getenv("VERBOSE"))
		return;
	printf("%s: operation %zu, %s", where, index, io_record_describe(of, index));
	printf(", after %s: %s\n", index > 0 ? io_record_describe(of, index - 1) : "the start", what);
}

static void forget_each_sync(size_t step, struct tally *tally)
{
	char why[2048];

	for (size_t i = marks[step]; i < marks[step + 1]; i++) {
		bool thorough = false;
		struct power_options options = {
		        .from = i + 1, .to = harm_end(i), .forgotten = i, .random = level->random_forgotten, .seed = 1};

		if (!is_sync(io_record_get(record, i)))
			continue;
		bool noticed = is_noticed(record, &options, visit_forgotten, &thorough, why, sizeof why);
		const char *spare = spare_sync(record, i, marks[step + 1]);
		if (!noticed && !spare) { /* harder, before it is called a fault of this test */
			thorough = true;
			options.random = level->random_forgotten * 20;
			noticed = is_noticed(record, &options, visit_forgotten, &thorough, why, sizeof why);
		}
		tally->syncs++;
		tally->noticed += noticed;
		tell(scenario_name(step), i, record, noticed ? why : spare ? spare : "not missed");
		check_context("%s: operation %zu, %s", scenario_name(step), i, io_record_describe(record, i));
		CHECK(noticed || spare || level->looked_at_one > 1);
	}
}

/* ---- the process is killed, and power fails later ---- */

static void guest_goes_on(const struct io *io)
{
	static const char *const names[] = {"a.img", "b.img"};

	for (size_t i = 0; i < 2; i++) {
		int rc = scenario_guest(io, live_fd, names[i]);

		CHECK(rc == 0 || rc == -ENOENT);
	}
}

struct killed {
	struct io_record *record;
	size_t first, recovered, end; /* operations: of the recovery; of the guest; after it */
	struct view view;             /* in the end */
};

/* Killed before operation k; so the kernel has everything up to there, synced or not. Somebody else opens the images,
 * and the guest writes and flushes. Every other time that is a daemon which has been running, and cleans nothing first.
 */
static void kill_and_go_on(size_t k, struct killed *killed)
{
	empty_directory(live_fd);
	killed->record = io_record_fork(record, k, live_fd);
	killed->first = k;
	if (k % 2)
		view_read(io_record_io(killed->record), live_fd, &killed->view);
	killed->recovered = io_record_count(killed->record);
	guest_goes_on(io_record_io(killed->record));
	killed->end = io_record_count(killed->record);
	view_read(&io_fast, live_fd, &killed->view);
}

/* One of the syncs since the kill is not done. */
static void forget_after_kill(const struct killed *killed, struct expected *expected, struct tally *tally)
{
	char why[2048];

	for (size_t i = killed->first; i < killed->end; i++) {
		const struct power_options options = {
		        .from = killed->end, .to = killed->end, .forgotten = i, .brief = true, .seed = 1};

		if (!is_sync(io_record_get(killed->record, i)))
			continue;
		bool noticed = is_noticed(killed->record, &options, visit_nested, expected, why, sizeof why);
		tally->killed_syncs++;
		tally->killed_noticed += noticed;
		tell("after a kill", i, killed->record, noticed ? why : "not missed");
	}
}

static void fail_after_kill(size_t step, size_t k, bool forget, struct tally *tally)
{
	static struct killed killed;

	check_context("%s: killed before operation %zu (%s)", scenario_name(step), k, io_record_describe(record, k));
	kill_and_go_on(k, &killed);
	/* Until the guest knows what it sees, it is the one or the other. */
	struct expected either = {.step = step}, this = {.step = step, .only_view = &killed.view, .killed = k};
	struct power_options options = {
	        .from = killed.first, .to = killed.recovered, .forgotten = SIZE_MAX, .brief = true, .seed = 1};
	power_enumerate(killed.record, &options, visit_nested, &either);
	options.from = options.to = killed.end;
	options.brief = false;
	power_enumerate(killed.record, &options, visit_nested, &this);
	if (forget)
		forget_after_kill(&killed, &this, tally);
	io_record_free(killed.record);
}

/* Where a change has just taken place, and nothing says that it is durable. */
static bool just_changed(size_t k)
{
	const struct io_operation *last = io_record_get(record, k - 1);

	return last->kind == IO_RENAME || (last->kind == IO_UNLINK && !strcmp(last->name, "map.db-journal"));
}

/* ---- */

static void record_scenario(void)
{
	int scenario_fd = scratch_directory();

	scenario_start(scenario_fd);
	record = io_record_new(scenario_fd);
	view_read(&io_fast, scenario_fd, &views[0]);
	for (size_t step = 0; step < scenario_steps; step++) {
		check_context("%s", scenario_name(step));
		CHECK_IS(scenario_run(io_record_io(record), scenario_fd, step), 0);
		marks[step + 1] = io_record_count(record);
		size_t changes = io_record_changes(record);
		view_read(io_record_io(record), scenario_fd, &views[step + 1]);
		CHECK_IS(io_record_changes(record), changes); /* nothing was left for recovery */
	}
}

static void choose_level(void)
{
	const char *name = getenv("POWER");

	for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
		if (!strcmp(levels[i].name, name ? name : "default"))
			level = &levels[i];
	}
	CHECK(level);
}

static void look_at_step(size_t step, uint64_t seed, struct tally *tally)
{
	fail_everywhere(step, seed);
	forget_each_sync(step, tally);
	for (size_t k = marks[step] + 1; k <= marks[step + 1]; k++) {
		if (k % level->killed_every == 0 || just_changed(k))
			fail_after_kill(step, k, just_changed(k) && level->looked_at_one == 1, tally);
	}
}

/* Every so many-th step, in a process of its own: recovery often waits for the clock, during which another can go on.
 */
static pid_t start_worker(size_t worker, uint64_t seed, int to_fd)
{
	struct tally tally = {0};
	pid_t child = fork();

	CHECK(child >= 0);
	if (child != 0)
		return child;
	for (size_t step = worker; step < scenario_steps; step += WORKERS)
		look_at_step(step, seed + step, &tally);
	tally.states = states.count;
	tally.stores = recovered.count;
	tally.recoveries = recoveries;
	CHECK_IS(write(to_fd, &tally, sizeof tally), sizeof tally);
	_exit(0);
}

int main(void)
{
	struct tally tally, sum = {0};
	pid_t workers[WORKERS];
	int ends[2], status;

	CHECK(scenario_steps <= STEPS_MAX);
	choose_level();
	random_start();
	if (access("/dev/shm", W_OK) == 0)
		setenv("TMPDIR", "/dev/shm", 0); /* zcfs-check copies databases */
	record_scenario();
	CHECK_IS(pipe(ends), 0);
	for (size_t i = 0; i < WORKERS; i++) {
		dir_fd = scratch_directory();
		live_fd = scratch_directory();
		workers[i] = start_worker(i, random_u64(), ends[1]);
	}
	for (size_t i = 0; i < WORKERS; i++) {
		CHECK_IS(waitpid(workers[i], &status, 0), workers[i]);
		CHECK_IS(status, 0);
		CHECK_IS(read(ends[0], &tally, sizeof tally), sizeof tally);
		sum.states += tally.states;
		sum.stores += tally.stores;
		sum.recoveries += tally.recoveries;
		sum.syncs += tally.syncs;
		sum.noticed += tally.noticed;
		sum.killed_syncs += tally.killed_syncs;
		sum.killed_noticed += tally.killed_noticed;
	}
	printf("%zu operations; %zu states, %lu of them recovered; %zu stores seen by zcfs-check\n",
	       marks[scenario_steps], sum.states, sum.recoveries, sum.stores);
	printf("%u syncs, %u of them missed if the disk does not do them; %u after a kill, %u of them missed\n",
	       sum.syncs, sum.noticed, sum.killed_syncs, sum.killed_noticed);
	CHECK(sum.noticed > 0);
	io_record_free(record);
	return 0;
}

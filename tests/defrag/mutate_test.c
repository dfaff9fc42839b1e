/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: whatever is wrong with a volume's metadata, a guest pass neither crashes nor hangs nor eats the memory; if
 * it changes nothing, the image keeps every byte, and if it changes something, a volume that was consistent still is,
 * by an independent checker.
 *
 * tests/fuzz/fuzz_volume.c finds its way to rarer damage; here everything is real: the sandbox, the parent, the store.
 *
 * Volumes made by mkntfs, filled and scattered by the tools of tests/ntfs, are damaged at random in memory, behind the
 * fixups, so that the damage gets past them. Arguments: the paths of ntfs-check, ntfs-populate, ntfs-scatter and
 * ntfs-hash. SECONDS in the environment says how long to go on; every round has a seed of its own, which is printed if
 * it fails, and SEED replays it first. NO_SANDBOX lets sanitizers speak; KEEP names a file for the damaged image of a
 * round that fails, or of the only one.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "defrag/guest_pass.h"
#include "defrag/layout.h"
#include "defrag/sandbox.h"
#include "defrag/worker.h"
#include "tests/defrag/mutate.h"
#include "tests/mapdb/check.h"

#define SECONDS       15
#define SECONDS_ROUND 300                   /* longer is a hang */
#define MEMORY_MAX    (UINT64_C(768) << 20) /* bytes of the child's address space */

/* ---- the child ---- */

/* How the child ended; shared with it. */
static struct outcome {
	volatile int entered, returned, result, signal;
} * outcome;

static void note_signal(int number)
{
	outcome->signal = number;
	_exit(3);
}

int __real_worker_run(const struct image *image, const struct pass_options *options, int write_fd, int scratch_fd);
int __wrap_worker_run(const struct image *image, const struct pass_options *options, int write_fd, int scratch_fd);
int __real_sandbox_enter(const struct sandbox *sandbox);
int __wrap_sandbox_enter(const struct sandbox *sandbox);

#if defined(__SANITIZE_ADDRESS__)
static const bool sanitized = true;
#else
static const bool sanitized = false;
#endif

int __wrap_sandbox_enter(const struct sandbox *sandbox)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
	const struct rlimit limit = {MEMORY_MAX, MEMORY_MAX};
	if (!sanitized && !getenv("NO_SANDBOX")) {
		setrlimit(RLIMIT_AS, &limit);
		for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
			signal(signals[i], note_signal);
	}
	return getenv("NO_SANDBOX") ? 0 : __real_sandbox_enter(sandbox);
}

int __wrap_worker_run(const struct image *image, const struct pass_options *options, int write_fd, int scratch_fd)
{
	outcome->entered = 1;
	outcome->result = 1;
	int r = __real_worker_run(image, options, write_fd, scratch_fd);
	outcome->result = r;
	outcome->returned = 1;
	return r;
}
/* ---- rounds ---- */

static uint8_t seen[IMAGE_SIZE_MAX]; /* what is in the store */
static int dir_fd, seconds;

static struct {
	unsigned int rounds, refused, damaged, unsupported, skipped, failed, unchanged, committed, consistent,
	        inconsistent_before;
	unsigned int child_errors[200];
} counts;

static struct timespec round_started;

static int watch(void *context, unsigned int volume, enum pass_phase phase, uint64_t done, uint64_t total)
{
	struct timespec now;
	(void)context, (void)volume, (void)phase, (void)done, (void)total;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec - round_started.tv_sec > SECONDS_ROUND;
}

static void keep_image(void)
{
	const char *path = getenv("KEEP");
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600) : -1;
	if (fd >= 0 && write(fd, image_bytes, base->size) == (ssize_t)base->size)
		close(fd);
}

#define EXPECT(condition)                                                                                              \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			keep_image();                                                                                  \
			CHECK(condition);                                                                              \
		}                                                                                                      \
	} while (0)

static bool is_consistent(const uint8_t *bytes)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/fd/%d/check.img", getpid(), work_fd);
	write_file(work_fd, "check.img", bytes, base->size);
	return RUN_TOOL(check_tool, path) == 0;
}

/* What libntfs-3g reads of the image that was checked last: a hash for each file and stream. */
static char *hash_files(int *status)
{
	char path[64], output[64];
	static const size_t most = 1 << 20;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d/check.img", getpid(), work_fd);
	snprintf(output, sizeof(output), "/proc/%d/fd/%d/hashes", getpid(), work_fd);
	write_file(work_fd, "hashes", "", 0);
	*status = run_tool(output, (const char *const[]){hash_tool, path, NULL});
	char *text = calloc(1, most);
	int fd = openat(work_fd, "hashes", O_RDONLY);
	CHECK(text && fd >= 0 && read(fd, text, most - 1) >= 0);
	close(fd);
	return text;
}

/* Only ever what changed is written: most rounds leave the file as it was. */
static void put_image(void)
{
	int fd = openat(dir_fd, "disk.img", O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK(fd >= 0);
	CHECK_IS(write(fd, image_bytes, base->size), base->size);
	close(fd);
}

static void check_untouched(void)
{
	struct stat status;
	int fd = openat(dir_fd, "disk.img", O_RDONLY);
	EXPECT(fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && (size_t)status.st_size == base->size);
	EXPECT(pread(fd, seen, base->size, 0) == (ssize_t)base->size);
	EXPECT(!memcmp(seen, image_bytes, base->size));
	close(fd);
}

static void check_committed(void)
{
	struct image *image;
	counts.committed++;
	EXPECT(image_open(&io_posix, dir_fd, "disk.img", IMAGE_UNLOCKED, IMAGE_READ_ONLY, 0, &image) == 0);
	EXPECT(image_read(image, seen, base->size, 0) == 0);
	image_close(image);
	if (!is_consistent(image_bytes)) {
		counts.inconsistent_before++;
		if (getenv("VERBOSE"))
			printf("committed though ntfs-check objects: SEED=%s\n", getenv("SEED"));
	} else {
		int status_before, status_after;
		char *before = hash_files(&status_before);
		EXPECT(is_consistent(seen));
		char *after = hash_files(&status_after);
		EXPECT(status_before == status_after && !strcmp(before, after));
		EXPECT(status_before || strlen(before) > 1000);
		free(before);
		free(after);
		counts.consistent++;
	}
	empty_directory(dir_fd);
}

static void count_result(const struct pass_report *report)
{
	unsigned int *by_result[] = {&counts.unchanged, &counts.skipped, &counts.unsupported,
	                             &counts.refused,   &counts.damaged, &counts.failed};
	++*by_result[report->result];
	if (report->result == VOLUME_FAILED && getenv("VERBOSE"))
		printf("SEED=%s: %s\n", getenv("SEED"), report->volumes[0].cause);
}

/* An error of the child must be its own: no signal, no lack of memory. */
static void check_child_error(int r)
{
	EXPECT(r == -ECHILD);
	EXPECT(!outcome->signal);
	EXPECT(outcome->entered && outcome->returned);
	EXPECT(outcome->result < 0 && outcome->result != -ENOMEM);
	counts.child_errors[-outcome->result % 200]++;
	if (getenv("VERBOSE"))
		printf("SEED=%s: the child ended with %s\n", getenv("SEED"), strerror(-outcome->result));
}

/* One pass over the damaged image. */
static int run_pass(struct pass_options options, struct pass_report *report)
{
	struct image *image;
	options.progress = watch;
	put_image();
	if (seconds == 0)
		keep_image();
	memset(outcome, 0, sizeof(*outcome));
	clock_gettime(CLOCK_MONOTONIC, &round_started);
	CHECK_IS(image_open(&io_posix, dir_fd, "disk.img", IMAGE_EXCLUSIVE, 0, 1000, &image), 0);
	int r = guest_pass_run(image, &options, report);
	image_close(image);
	if (r < 0)
		check_child_error(r);
	else if (!report->changed)
		count_result(report);
	if (report->changed)
		check_committed();
	else
		check_untouched();
	return r;
}

static void check_round(void)
{
	struct pass_options options = {.pack = random_below(3) == 0};
	struct pass_report report;
	options.analyze = random_below(10) == 0;
	options.dry_run = random_below(5) < 3; /* the child does the same, and much faster */
	base = &bases[random_below(BASES)];
	damage();
	run_pass(options, &report);
	pass_report_free(&report);
	counts.rounds++;
}
static void check_attacks(void)
{
	for (size_t i = 0; i < attack_count; i++) {
		for (unsigned int variant = 0; variant < 2 * BASES; variant++) {
			struct pass_options options = {.analyze = variant % 2};
			struct pass_report report;
			check_context("%s, volume %u%s", attacks[i].name, variant / 2,
			              options.analyze ? ", analyze" : "");
			base = &bases[variant / 2];
			memcpy(image_bytes, base->bytes, base->size);
			attacks[i].make();
			CHECK_IS(run_pass(options, &report), 0);
			/* Not every volume has what an attack aims at. */
			CHECK(report.result >= attacks[i].at_least || !memcmp(image_bytes, base->bytes, base->size));
			CHECK(i || report.changed != options.analyze);
			CHECK(report.result != VOLUME_FAILED);
			pass_report_free(&report);
		}
	}
}

/* ---- a planner that is wrong ---- */

static enum mistake {
	NO_MISTAKE,
	TAKES_LOST, /* clusters that are marked as used and nobody's are free to it */
	MOVES_ALL,  /* what it moves should stay */
	MISTAKES,
} mistake;
static bool planned; /* in the child */

int __real_plan_make(const struct plan_input *input, struct plan *plan);
int __wrap_plan_make(const struct plan_input *input, struct plan *plan);
enum plan_kind __real_layout_kind(const struct scan *scan, const struct attr *attr);
enum plan_kind __wrap_layout_kind(const struct scan *scan, const struct attr *attr);

int __wrap_plan_make(const struct plan_input *input, struct plan *plan)
{
	struct plan_input wrong = *input;
	struct run_list everything = {0};
	uint64_t clusters =
	        base->size / base->cluster - 8; /* the last ones may belong to the copy of the boot sector */
	planned = true;
	if (mistake != TAKES_LOST)
		return __real_plan_make(input, plan);
	uint8_t *used = calloc(clusters, 1);
	CHECK(used);
	for (size_t i = 0; i < input->object_count; i++)
		for (uint32_t k = 0; k < input->objects[i].run_count; k++)
			for (uint64_t c = 0; c < input->runs[input->objects[i].first_run + k].length; c++)
				used[input->runs[input->objects[i].first_run + k].lcn + c] = 1;
	for (uint64_t i = 0; i < clusters; i++)
		if (!used[i])
			CHECK_IS(run_list_push_merged(&everything, 0, i, 1), 0);
	free(used);
	wrong.free = &everything;
	int r = __real_plan_make(&wrong, plan);
	run_list_free(&everything);
	return r;
}

enum plan_kind __wrap_layout_kind(const struct scan *scan, const struct attr *attr)
{
	return mistake == MOVES_ALL && planned ? PLAN_PINNED : __real_layout_kind(scan, attr);
}

/* Marks every cluster that is free but the volume's last ones. */
static void lose_free_clusters(void)
{
	uint64_t bits = base->size / base->cluster - 64, at = 0;
	for (size_t i = 0; i < base->bitmap.count; i++)
		for (uint64_t byte = 0; byte < base->bitmap.runs[i].length * base->cluster && at < bits;
		     byte++, at += 8)
			image_bytes[base->bitmap.runs[i].lcn * base->cluster + byte] = 0xff;
}

/* The proof must notice. */
static void check_mistakes(void)
{
	for (mistake = NO_MISTAKE; mistake < MISTAKES; mistake++) {
		struct pass_options options = {.pack = true, .dry_run = mistake != NO_MISTAKE};
		struct pass_report report;
		check_context("mistake %u", mistake);
		base = &bases[1];
		memcpy(image_bytes, base->bytes, base->size);
		lose_free_clusters();
		CHECK_IS(run_pass(options, &report), 0);
		CHECK_IS(report.result, mistake == NO_MISTAKE ? VOLUME_DONE : VOLUME_FAILED);
		pass_report_free(&report);
	}
	mistake = NO_MISTAKE;
}

int main(int argc, char **argv)
{
	const char *limit = getenv("SECONDS"), *given = getenv("SEED");
	time_t start = time(NULL), end;
	uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)start << 20;
	char text[32];
	CHECK_IS(argc, 5);
	setvbuf(stdout, NULL, _IOLBF, 0);
	seconds = limit ? atoi(limit) : SECONDS;
	end = start + seconds;
	check_tool = argv[1];
	populate_tool = argv[2];
	scatter_tool = argv[3];
	hash_tool = argv[4];
	outcome = mmap(NULL, sizeof(*outcome), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(outcome != MAP_FAILED);
	dir_fd = scratch_directory();
	work_fd = scratch_directory();
	for (unsigned int i = 0; i < BASES; i++)
		make_base(&bases[i]);
	if (!given) {
		check_attacks();
		check_mistakes();
	}
	do {
		snprintf(text, sizeof(text), "%" PRIu64, seed);
		setenv("SEED", text, 1);
		random_start();
		for (unsigned int i = 0; i < 8; i++) /* seeds that are close to one another must not go the same way */
			random_u64();
		check_context("round %u", counts.rounds);
		check_round();
		seed += 2;
	} while (time(NULL) < end);
	printf("%u rounds: %u changed (%u of them judged consistent before and after, %u not before), %u nothing to do "
	       "or analysed,\n"
	       "%u damaged, %u refused, %u unsupported, %u skipped, %u not proven\n",
	       counts.rounds, counts.committed, counts.consistent, counts.inconsistent_before, counts.unchanged,
	       counts.damaged, counts.refused, counts.unsupported, counts.skipped, counts.failed);
	for (int i = 0; i < 200; i++)
		if (counts.child_errors[i])
			printf("%u ended with: %s\n", counts.child_errors[i], strerror(i));
	return 0;
}

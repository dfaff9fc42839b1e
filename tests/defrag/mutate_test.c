/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: whatever is wrong with a volume's metadata, a guest pass neither crashes nor hangs nor eats the memory; if
 * it changes nothing, the image keeps every byte, and if it changes something, a volume that was consistent still is,
 * by an independent checker.
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
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "defrag/guest_pass.h"
#include "defrag/record.h"
#include "defrag/run_list.h"
#include "defrag/sandbox.h"
#include "defrag/worker.h"
#include "tests/mapdb/check.h"

#define SECONDS        40
#define SECONDS_ROUND  20                    /* longer is a hang */
#define MEMORY_MAX     (UINT64_C(768) << 20) /* bytes of the child's address space */
#define IMAGE_SIZE_MAX (7u << 20)
#define BASES          4u

extern char **environ;

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
int __real_sandbox_enter(int write_fd, int scratch_fd);
int __wrap_sandbox_enter(int write_fd, int scratch_fd);

#if defined(__SANITIZE_ADDRESS__)
static const bool sanitized = true;
#else
static const bool sanitized = false;
#endif

int __wrap_sandbox_enter(int write_fd, int scratch_fd)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
	const struct rlimit limit = {MEMORY_MAX, MEMORY_MAX};
	if (!sanitized && !getenv("NO_SANDBOX")) {
		setrlimit(RLIMIT_AS, &limit);
		for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
			signal(signals[i], note_signal);
	}
	return getenv("NO_SANDBOX") ? 0 : __real_sandbox_enter(write_fd, scratch_fd);
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

/* ---- tools ---- */

static const char *check_tool, *hash_tool, *populate_tool, *scatter_tool;

/* Where output goes that nobody asks for. */
static const char *log_path(void)
{
	return getenv("TOOL_OUTPUT") ? getenv("TOOL_OUTPUT") : "/dev/null";
}

/* The exit status; -1 if it was killed. */
static int run_tool(const char *output, const char *const *arguments)
{
	posix_spawn_file_actions_t actions;
	pid_t pid;
	int status;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, output, O_WRONLY | O_CREAT | O_APPEND, 0600);
	posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log_path(), O_WRONLY | O_CREAT | O_APPEND, 0600);
	int r = posix_spawnp(&pid, arguments[0], &actions, NULL, (char *const *)(uintptr_t)arguments, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (r == ENOENT)
		check_skip("a tool (mkntfs?) is not installed");
	CHECK_IS(r, 0);
	CHECK_IS(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#define RUN_TOOL(...) run_tool(log_path(), (const char *const[]){__VA_ARGS__, NULL})

/* ---- the volumes to start from ---- */

struct base {
	const char *cluster_size, *large, *record_option;
	size_t size;
	uint8_t *bytes;
	uint32_t cluster, record_size, records;
	uint64_t mirror_off;
	struct run_list mft, bitmap, mft_bitmap;
	uint32_t *listed; /* base records with an attribute list, and extension records */
	size_t listed_count;
};

static struct base bases[BASES] = {
        {.cluster_size = "512", .large = "90K..100K", .size = 3u << 20},
        {.cluster_size = "1024", .large = "180K..200K", .size = 4u << 20},
        {.cluster_size = "4096", .large = "400K..420K", .size = 7u << 20},
        {.cluster_size = "4096",
         .large = "100K",
         .record_option = "4096",
         .size = 7u << 20}, /* sectors as long as records */
};

static uint8_t image_bytes[IMAGE_SIZE_MAX], seen[IMAGE_SIZE_MAX]; /* the damaged image, and what is in the store */
static const struct base *base;
static int dir_fd, work_fd, seconds;

static uint64_t record_place(const struct base *b, uint64_t off)
{
	struct run_index index;
	CHECK_IS(run_index_build(&index, b->mft.runs, b->mft.count), 0);
	uint64_t place = run_index_lookup(&index, off / b->cluster).lcn * b->cluster + off % b->cluster;
	run_index_free(&index);
	return place;
}

/* Records may lie in several pieces. */
static void load_record(const struct base *b, const uint8_t *bytes, uint32_t number, uint8_t *record)
{
	for (uint32_t off = 0; off < b->record_size; off += 512)
		memcpy(record + off, bytes + record_place(b, (uint64_t)number * b->record_size + off), 512);
}

static void store_record(const struct base *b, uint8_t *bytes, uint32_t number, const uint8_t *record, bool mirrored)
{
	for (uint32_t off = 0; off < b->record_size; off += 512) {
		memcpy(bytes + record_place(b, (uint64_t)number * b->record_size + off), record + off, 512);
		if (mirrored && number < 4)
			memcpy(bytes + b->mirror_off + (uint64_t)number * b->record_size + off, record + off, 512);
	}
}

static void take_runs(struct base *b, uint32_t number, ATTR_TYPES type, struct run_list *runs)
{
	_Alignas(8) uint8_t record[4096];
	uint64_t vcns;
	load_record(b, b->bytes, number, record);
	CHECK_IS(record_unprotect(record, b->record_size), 0);
	record_for_each(attr, record) if (attr->type == type && attr->non_resident && !attr->name_length)
	        CHECK_IS(mapping_pairs_decode((uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr), UINT32_MAX,
	                                      runs, &vcns),
	                 0);
}

static void find_interesting(struct base *b)
{
	_Alignas(8) uint8_t record[4096];
	b->listed = calloc(b->records, sizeof(*b->listed));
	CHECK(b->listed);
	for (uint32_t i = 0; i < b->records; i++) {
		load_record(b, b->bytes, i, record);
		if (mft_record(record)->magic != magic_FILE || !(mft_record(record)->flags & MFT_RECORD_IN_USE) ||
		    record_unprotect(record, b->record_size) < 0 || record_check(record, b->record_size) < 0)
			continue;
		bool interesting = mft_record(record)->base_mft_record;
		record_for_each(attr, record) interesting |= attr->type == AT_ATTRIBUTE_LIST;
		if (interesting)
			b->listed[b->listed_count++] = i;
	}
}

static void understand(struct base *b)
{
	const NTFS_BOOT_SECTOR *boot = (const NTFS_BOOT_SECTOR *)b->bytes;
	uint32_t sector = le16_to_cpu(boot->bpb.bytes_per_sector);
	b->cluster = sector * boot->bpb.sectors_per_cluster;
	b->record_size = boot->clusters_per_mft_record < 0 ? 1u << -boot->clusters_per_mft_record
	                                                   : (uint32_t)boot->clusters_per_mft_record * b->cluster;
	b->mirror_off = (uint64_t)sle64_to_cpu(boot->mftmirr_lcn) * b->cluster;
	for (uint64_t i = 0; i < 16; i++) /* to begin with, what holds the first record */
		CHECK_IS(run_list_push_merged(&b->mft, 0, (uint64_t)sle64_to_cpu(boot->mft_lcn) + i, 1), 0);
	struct run_list mft = {0};
	take_runs(b, 0, AT_DATA, &mft);
	run_list_free(&b->mft);
	b->mft = mft;
	take_runs(b, FILE_Bitmap, AT_DATA, &b->bitmap);
	take_runs(b, 0, AT_BITMAP, &b->mft_bitmap);
	uint64_t clusters = 0;
	for (size_t i = 0; i < b->mft.count; i++)
		clusters += b->mft.runs[i].length;
	b->records = (uint32_t)(clusters * b->cluster / b->record_size); /* of the first extent, which is enough */
	find_interesting(b);
}

static void make_base(struct base *b)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/fd/%d/base.img", getpid(), work_fd);
	int fd = openat(work_fd, "base.img", O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK(fd >= 0 && ftruncate(fd, (off_t)b->size) == 0);
	const char *sector = b->record_option ? b->record_option : "512";
	CHECK_IS(RUN_TOOL("mkntfs", "-q", "-F", "-Q", "-s", sector, "-p", "0", "-H", "16", "-S", "63", "-c",
	                  b->cluster_size, "-L", "mutate", path),
	         0);
	CHECK_IS(RUN_TOOL(populate_tool, "--seed", "1", "--files", "30", "--file-size", "1..24K", "--dirs", "3",
	                  "--tiny", "10", "--streams", "6", "--sparse", "5", "--compressed", "5", "--links", "3",
	                  "--names", "3", path),
	         0);
	int r = RUN_TOOL(populate_tool, "--seed", "2", "--files", "3", "--file-size", b->large, "--streams", "2", path);
	CHECK(r == 0 || r == 3); /* a full volume is as good */
	CHECK_IS(RUN_TOOL(scatter_tool, "--what", "all", "--max-run", "2", path), 0);
	CHECK_IS(RUN_TOOL(check_tool, path), 0);
	b->bytes = malloc(b->size);
	CHECK(b->bytes && pread(fd, b->bytes, b->size, 0) == (ssize_t)b->size);
	close(fd);
	understand(b);
}

/* ---- damage ---- */

static uint64_t telling_number(void)
{
	static const uint64_t numbers[] = {0,
	                                   1,
	                                   2,
	                                   7,
	                                   8,
	                                   0x7f,
	                                   0x80,
	                                   0xff,
	                                   0x100,
	                                   0x1ff,
	                                   0x200,
	                                   0x7fff,
	                                   0x8000,
	                                   0xffff,
	                                   0x10000,
	                                   INT32_MAX,
	                                   UINT32_MAX,
	                                   UINT64_C(1) << 32,
	                                   UINT64_C(1) << 40,
	                                   INT64_MAX,
	                                   UINT64_C(1) << 63,
	                                   UINT64_MAX};
	return random_below(4) ? numbers[random_below(sizeof(numbers) / sizeof(*numbers))] : random_u64();
}

/* Another number in a field of that many bytes: close by, telling, or any. */
static void damage_field(uint8_t *field, unsigned int size)
{
	uint64_t value = 0;
	memcpy(&value, field, size);
	switch (random_below(4)) {
	case 0:
		value += random_below(2) ? 1 : UINT64_MAX;
		break;
	case 1:
		value += (random_below(2) ? 8 : UINT64_MAX - 7) * (1 + random_below(4));
		break;
	case 2:
		value ^= UINT64_C(1) << random_below(8 * size);
		break;
	default:
		value = telling_number();
	}
	memcpy(field, &value, size);
}

struct field {
	uint8_t off, size;
};

static void damage_one_of(uint8_t *at, const struct field *fields, size_t count)
{
	const struct field *field = &fields[random_below(count)];
	damage_field(at + field->off, field->size);
}
#define DAMAGE_ONE_OF(at, fields) damage_one_of((at), (fields), sizeof(fields) / sizeof(*(fields)))

/* Offsets are those of layout.h: header of a record, of an attribute, and of the two kinds of it. */
static const struct field record_fields[] = {{4, 2},  {6, 2},  {8, 8},  {16, 2}, {18, 2}, {20, 2}, {22, 2}, {24, 4},
                                             {28, 4}, {32, 8}, {32, 2}, {38, 2}, {40, 2}, {44, 4}, {0, 4}};
static const struct field attr_fields[] = {{0, 4}, {4, 4}, {8, 1}, {9, 1}, {10, 2}, {12, 2}, {14, 2}};
static const struct field resident_fields[] = {{16, 4}, {20, 2}, {22, 1}};
static const struct field nonresident_fields[] = {{16, 8}, {24, 8}, {32, 2}, {34, 1},
                                                  {40, 8}, {48, 8}, {56, 8}, {64, 8}};
static const struct field list_fields[] = {{0, 4}, {4, 2}, {6, 1}, {7, 1}, {8, 8}, {16, 4}, {16, 8}, {22, 2}, {24, 2}};
static const struct field boot_fields[] = {{3, 8},  {11, 2}, {13, 1}, {21, 1}, {40, 8},
                                           {48, 8}, {56, 8}, {64, 1}, {68, 1}, {72, 8}};

static uint32_t pick_record(void)
{
	switch (random_below(4)) {
	case 0:
		return (uint32_t)random_below(12);
	case 1:
		return base->listed_count ? base->listed[random_below(base->listed_count)] : 0;
	default:
		return (uint32_t)random_below(base->records);
	}
}

/* Any of the attributes, or NULL. Trusts nothing, since the record may be damaged already. */
static ATTR_RECORD *pick_attr(uint8_t *record, uint32_t *room)
{
	uint32_t off = le16_to_cpu(mft_record(record)->attrs_offset);
	ATTR_RECORD *picked = NULL;
	for (unsigned int count = 1; off % 8 == 0 && off + 80 < base->record_size; count++) {
		ATTR_RECORD *attr = (ATTR_RECORD *)(record + off);
		uint32_t length = le32_to_cpu(attr->length);
		if (attr->type == AT_END || length < 24 || length > base->record_size - off)
			break;
		if (random_below(count) == 0) {
			picked = attr;
			*room = length;
		}
		off += length;
	}
	return picked;
}

static void damage_list_entries(uint8_t *entries, uint32_t size)
{
	uint32_t count = size / 32;
	uint8_t *entry = entries + 32ul * random_below(count ? count : 1);
	if (count > 1 && random_below(4) == 0)
		memmove(entries + 32ul * random_below(count), entry, 32); /* one twice, one never */
	else if (size >= 32)
		DAMAGE_ONE_OF(entry, list_fields);
}

static void damage_value(ATTR_RECORD *attr, uint32_t room)
{
	uint32_t off = attr->non_resident ? le16_to_cpu(attr->mapping_pairs_offset) : le16_to_cpu(attr->value_offset);
	if (off >= room)
		return;
	uint8_t *value = (uint8_t *)attr + off;
	uint32_t size = room - off;
	if (attr->type == AT_ATTRIBUTE_LIST && !attr->non_resident)
		damage_list_entries(value, size);
	else if (attr->non_resident && random_below(3) == 0)
		value[0] = (uint8_t)(random_below(5) | random_below(5) << 4);
	else
		damage_field(value + random_below(size > 8 ? (random_below(2) ? 8 : size - 7) : 1),
		             size >= 8 ? 1 + (unsigned int)random_below(4) : 1);
}

static void damage_record_bytes(uint8_t *record)
{
	uint32_t room = 0;
	ATTR_RECORD *attr = pick_attr(record, &room);
	uint8_t *at = (uint8_t *)attr;
	switch (attr ? random_below(8) : 7) {
	case 0:
		DAMAGE_ONE_OF(at, attr_fields);
		break;
	case 1:
	case 2:
		if (attr->non_resident)
			DAMAGE_ONE_OF(at, nonresident_fields);
		else
			DAMAGE_ONE_OF(at, resident_fields);
		break;
	case 3:
	case 4:
		damage_value(attr, room);
		break;
	case 5:
		memset(at + random_below(room), (int)random_below(2) * 0xff, 1);
		break;
	case 6:
		record[random_below(base->record_size)] ^= (uint8_t)(1u << random_below(8));
		break;
	default:
		DAMAGE_ONE_OF(record, record_fields);
	}
}

/* Takes the fixups off and puts them on again as the undamaged record has them: the damage lies behind them. */
static void damage_record(void)
{
	_Alignas(8) uint8_t record[4096];
	uint32_t number = pick_record(), size = base->record_size;
	load_record(base, image_bytes, number, record);
	bool protected = mft_record(record)->magic == magic_FILE && record_unprotect(record, size) == 0;
	for (unsigned int i = 1 + (unsigned int)random_below(2); i; i--)
		damage_record_bytes(record);
	uint32_t usa = le16_to_cpu(mft_record(record)->usa_ofs);
	if (protected && usa % 2 == 0 && usa < 400) {
		for (uint32_t end = 510, i = 1; end < size; end += 512, i++) {
			memcpy(record + usa + 2 * i, record + end, 2);
			memcpy(record + end, record + usa, 2);
		}
	}
	store_record(base, image_bytes, number, record, random_below(8) != 0);
}

static uint8_t *random_byte_of(const struct run_list *runs, uint32_t bytes_below)
{
	if (!runs->count)
		return image_bytes + random_below(base->size);
	uint64_t off = random_below(bytes_below);
	for (size_t i = 0; i < runs->count; i++) {
		uint64_t length = runs->runs[i].length * base->cluster;
		if (off < length)
			return image_bytes + runs->runs[i].lcn * base->cluster + off;
		off -= length;
	}
	return image_bytes + runs->runs[0].lcn * base->cluster;
}

static void damage_boot(void)
{
	uint32_t sector = base->record_option ? 4096 : 512;
	DAMAGE_ONE_OF(image_bytes, boot_fields);
	if (random_below(8))
		memcpy(image_bytes + base->size / sector * sector - sector, image_bytes, sector);
}

/* The clusters of an attribute list that is not in its record. */
static void damage_outside_list(void)
{
	_Alignas(8) uint8_t record[4096];
	if (!base->listed_count)
		return;
	load_record(base, base->bytes, base->listed[random_below(base->listed_count)], record);
	CHECK_IS(record_unprotect(record, base->record_size), 0);
	record_for_each(attr, record)
	{
		struct run_list runs = {0};
		uint64_t vcns;
		if (attr->type != AT_ATTRIBUTE_LIST || !attr->non_resident)
			continue;
		CHECK_IS(mapping_pairs_decode((uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr), UINT32_MAX,
		                              &runs, &vcns),
		         0);
		damage_list_entries(image_bytes + runs.runs[0].lcn * base->cluster,
		                    random_below(2) ? (uint32_t)sle64_to_cpu(attr->data_size) % base->cluster
		                                    : base->cluster);
		run_list_free(&runs);
	}
}

static void damage(void)
{
	memcpy(image_bytes, base->bytes, base->size);
	for (unsigned int i = random_below(3) ? 1 : 1 + (unsigned int)random_below(4); i; i--) {
		uint64_t dice = random_below(100);
		if (dice < 70)
			damage_record();
		else if (dice < 80)
			damage_outside_list();
		else if (dice < 90)
			damage_boot();
		else if (dice < 95)
			*random_byte_of(&base->bitmap, (uint32_t)(base->size / base->cluster / 8)) ^=
			        (uint8_t)(1u << random_below(8));
		else
			*random_byte_of(&base->mft_bitmap, base->records / 8) ^= (uint8_t)(1u << random_below(8));
	}
}

/* ---- rounds ---- */

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

/* ---- damage with an intention ---- */

static NTFS_BOOT_SECTOR *boot_sector(void)
{
	return (NTFS_BOOT_SECTOR *)image_bytes;
}

/* Both copies of the boot sector say the same. */
static void copy_boot(void)
{
	uint32_t sector = base->record_option ? 4096 : 512;
	memcpy(image_bytes + base->size / sector * sector - sector, image_bytes, sector);
}

static void boot_of_eternity(void)
{
	boot_sector()->number_of_sectors = cpu_to_sle64(INT64_C(1) << 62);
	copy_boot();
}

static void boot_of_terabytes(void)
{
	boot_sector()->number_of_sectors = cpu_to_sle64(INT64_C(1) << 31);
	copy_boot();
}

static void boot_mft_nowhere(void)
{
	boot_sector()->mft_lcn = cpu_to_sle64(INT64_MIN + 1);
	copy_boot();
}

static void boot_mft_past_end(void)
{
	boot_sector()->mft_lcn = cpu_to_sle64(INT64_C(1) << 54);
	copy_boot();
}

static void boot_mirror_is_mft(void)
{
	boot_sector()->mftmirr_lcn = boot_sector()->mft_lcn;
	copy_boot();
}

static void boot_tiny_records(void)
{
	boot_sector()->clusters_per_mft_record = -31;
	copy_boot();
}

/* Record 0, to be changed and put back. */
static _Alignas(8) uint8_t mft_itself[4096];

static ATTR_RECORD *open_mft(ATTR_TYPES type)
{
	load_record(base, image_bytes, 0, mft_itself);
	CHECK_IS(record_unprotect(mft_itself, base->record_size), 0);
	record_for_each(attr,
	                mft_itself) if (attr->type == type && attr->non_resident && !attr->name_length) return attr;
	return NULL;
}

static void close_mft(void)
{
	record_protect(mft_itself, base->record_size);
	store_record(base, image_bytes, 0, mft_itself, true);
}

static void set_sizes(ATTR_RECORD *attr, uint64_t clusters)
{
	attr->highest_vcn = cpu_to_sle64((int64_t)clusters - 1);
	attr->allocated_size = attr->data_size = attr->initialized_size =
	        cpu_to_sle64((int64_t)(clusters * base->cluster));
}

static void mft_without_runs(void)
{
	ATTR_RECORD *attr = open_mft(AT_DATA);
	memset((uint8_t *)attr + attr_pairs_off(attr), 0, attr_pairs_room(attr));
	set_sizes(attr, 0);
	close_mft();
}

static void mft_of_one_hole(void)
{
	static const struct run hole = {RUN_HOLE, INT64_C(1) << 40};
	ATTR_RECORD *attr = open_mft(AT_DATA);
	size_t used;
	mapping_pairs_encode(&hole, 1, (uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr), &used);
	set_sizes(attr, hole.length);
	close_mft();
}

/* The whole volume, as often as there is room to say so: a cheap way to say that there are many records. */
static void mft_over_and_over(void)
{
	ATTR_RECORD *attr = open_mft(AT_DATA);
	uint64_t lcn = (uint64_t)sle64_to_cpu(boot_sector()->mft_lcn), length = base->size / base->cluster - 8 - lcn,
	         clusters = 0;
	uint8_t *p = (uint8_t *)attr + attr_pairs_off(attr), *end = (uint8_t *)attr + le32_to_cpu(attr->length);
	struct run run = {lcn, length};
	size_t used;
	CHECK_IS(mapping_pairs_encode(&run, 1, p, (size_t)(end - p), &used), 1);
	for (p += used - 1, clusters += length; end - p > 5; p += 5, clusters += length) {
		const uint8_t again[] = {0x13, (uint8_t)length, (uint8_t)(length >> 8), (uint8_t)(length >> 16), 0};
		memcpy(p, again, 5);
	}
	*p = 0;
	set_sizes(attr, clusters);
	close_mft();
}

static void mft_larger_than_its_runs(void)
{
	ATTR_RECORD *attr = open_mft(AT_DATA);
	attr->initialized_size = attr->data_size = cpu_to_sle64(INT64_C(1) << 42);
	close_mft();
}

static void bitmap_of_the_mft_is_the_mft(void)
{
	ATTR_RECORD *attr = open_mft(AT_BITMAP);
	struct run run = {(uint64_t)sle64_to_cpu(boot_sector()->mft_lcn), 1};
	size_t used;
	if (attr)
		mapping_pairs_encode(&run, 1, (uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr), &used);
	close_mft();
}

/* A catalog of shadow copies that goes on with itself. */
static void shadows_for_ever(void)
{
	static const uint8_t guid[16] = {0x6b, 0x87, 0x08, 0x38, 0x76, 0xc1, 0x48, 0x4e,
	                                 0xb7, 0xae, 0x04, 0x04, 0x6e, 0x6c, 0xc7, 0x52};
	uint64_t at = 1 << 20;
	memcpy(image_bytes + 0x1e00, guid, sizeof(guid));
	memcpy(image_bytes + 0x1e00 + 48, &at, sizeof(at));
	memset(image_bytes + at, 0, 16384);
	memcpy(image_bytes + at, guid, sizeof(guid));
	memcpy(image_bytes + at + 40, &at, sizeof(at));
}

/* Every directory is its own parent. */
static void directories_in_a_ring(void)
{
	_Alignas(8) uint8_t record[4096];
	for (uint32_t i = 24; i < base->records; i++) {
		load_record(base, image_bytes, i, record);
		if (mft_record(record)->magic != magic_FILE || record_unprotect(record, base->record_size) < 0)
			continue;
		record_for_each(attr, record) if (attr->type == AT_FILE_NAME)((FILE_NAME_ATTR *)attr_value(attr))
		        ->parent_directory = MK_LE_MREF(i, 1);
		record_protect(record, base->record_size);
		store_record(base, image_bytes, i, record, true);
	}
}

/* The first entry of each list outside its record for the second: one attribute is named twice, the other never. */
static void lists_with_twins(void)
{
	_Alignas(8) uint8_t record[4096];
	for (size_t i = 0; i < base->listed_count; i++) {
		load_record(base, base->bytes, base->listed[i], record);
		CHECK_IS(record_unprotect(record, base->record_size), 0);
		record_for_each(attr, record)
		{
			struct run_list runs = {0};
			uint64_t vcns;
			if (attr->type != AT_ATTRIBUTE_LIST || !attr->non_resident || base->listed[i] < 24)
				continue;
			CHECK_IS(mapping_pairs_decode((uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr),
			                              UINT32_MAX, &runs, &vcns),
			         0);
			uint8_t *list = image_bytes + runs.runs[0].lcn * base->cluster;
			uint32_t last = (uint32_t)sle64_to_cpu(attr->data_size) - 32;
			if (last < base->cluster && last >= 64)
				memcpy(list + last, list + last - 32, 32);
			run_list_free(&runs);
		}
	}
}

static void none(void)
{
}

static const struct attack {
	const char *name;
	void (*make)(void);
	enum volume_result at_least;
} attacks[] = {
        {"no damage", none, VOLUME_DONE},
        {"a volume of 2^62 sectors", boot_of_eternity, VOLUME_REFUSED},
        {"a volume of a terabyte", boot_of_terabytes, VOLUME_REFUSED},
        {"$MFT below the volume", boot_mft_nowhere, VOLUME_REFUSED},
        {"$MFT above the volume", boot_mft_past_end, VOLUME_REFUSED},
        {"$MFT as its own mirror", boot_mirror_is_mft, VOLUME_REFUSED},
        {"records of 2^31 bytes", boot_tiny_records, VOLUME_REFUSED},
        {"$MFT without runs", mft_without_runs, VOLUME_REFUSED},
        {"$MFT as one hole", mft_of_one_hole, VOLUME_REFUSED},
        {"$MFT over and over", mft_over_and_over, VOLUME_REFUSED},
        {"$MFT larger than its runs", mft_larger_than_its_runs, VOLUME_REFUSED},
        {"$MFT's bitmap in $MFT", bitmap_of_the_mft_is_the_mft, VOLUME_DONE},
        {"shadow copies without an end", shadows_for_ever, VOLUME_REFUSED},
        {"directories in a ring", directories_in_a_ring, VOLUME_DONE},
        {"attribute lists with twins", lists_with_twins, VOLUME_DONE},
};

static void check_attacks(void)
{
	for (size_t i = 0; i < sizeof(attacks) / sizeof(*attacks); i++) {
		for (unsigned int variant = 0; variant < 2 * BASES; variant++) {
			struct pass_options options = {.analyze = variant % 2};
			struct pass_report report;
			check_context("%s, volume %u%s", attacks[i].name, variant / 2,
			              options.analyze ? ", analyze" : "");
			base = &bases[variant / 2];
			memcpy(image_bytes, base->bytes, base->size);
			attacks[i].make();
			CHECK_IS(run_pass(options, &report), 0);
			CHECK(report.result >= attacks[i].at_least);
			CHECK(attacks[i].make != none || report.changed != options.analyze);
			CHECK(report.result != VOLUME_FAILED);
			pass_report_free(&report);
		}
	}
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
	if (!given)
		check_attacks();
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

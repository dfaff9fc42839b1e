/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The volumes that mutate_test starts from, made by mkntfs and the tools of tests/ntfs.
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/defrag/mutate.h"
#include "tests/mapdb/check.h"

extern char **environ;

const char *check_tool, *hash_tool, *populate_tool, *scatter_tool;
int work_fd;

const char *log_path(void)
{
	return getenv("TOOL_OUTPUT") ? getenv("TOOL_OUTPUT") : "/dev/null";
}

int run_tool(const char *output, const char *const *arguments)
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

#define USUAL .files = "3", .spare = "0", .max_run = "2"

struct base bases[BASES] = {
        {.cluster_size = "512", .large = "90K..100K", .size = 3u << 20, USUAL},
        {.cluster_size = "1024", .large = "180K..200K", .size = 4u << 20, USUAL},
        {.cluster_size = "4096", .large = "400K..420K", .size = 7u << 20, USUAL},
        /* sectors as long as records */
        {.cluster_size = "4096", .large = "100K", .record_option = "4096", .size = 7u << 20, USUAL},
        /* $MFT has extension records, and there are attribute lists outside their records */
        {.cluster_size = "512", .large = "1500K", .size = 4u << 20, .files = "1", .spare = "200", .max_run = "1"},
};

static uint64_t record_place(const struct base *b, uint64_t off)
{
	struct run_index index;
	CHECK_IS(run_index_build(&index, b->mft.runs, b->mft.count), 0);
	uint64_t place = run_index_lookup(&index, off / b->cluster).lcn * b->cluster + off % b->cluster;
	run_index_free(&index);
	return place;
}

void load_record(const struct base *b, const uint8_t *bytes, uint32_t number, uint8_t *record)
{
	for (uint32_t off = 0; off < b->record_size; off += 512)
		memcpy(record + off, bytes + record_place(b, (uint64_t)number * b->record_size + off), 512);
}

void store_record(const struct base *b, uint8_t *bytes, uint32_t number, const uint8_t *record, bool mirrored)
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

static uint64_t mft_clusters(const struct base *b)
{
	uint64_t clusters = 0;
	for (size_t i = 0; i < b->mft.count; i++)
		clusters += b->mft.runs[i].length;
	return clusters;
}

/* It has the next extent of $MFT. */
static bool continues_mft(const struct base *b, uint32_t number)
{
	_Alignas(8) uint8_t record[4096];
	load_record(b, b->bytes, number, record);
	const MFT_RECORD *m = mft_record(record);
	if (m->magic != magic_FILE || !(m->flags & MFT_RECORD_IN_USE) || !m->base_mft_record ||
	    MREF_LE(m->base_mft_record) != FILE_MFT || record_unprotect(record, b->record_size) < 0)
		return false;
	record_for_each(attr, record) if (attr->type == AT_DATA && attr->non_resident &&
	                                  (uint64_t)sle64_to_cpu(attr->lowest_vcn) == mft_clusters(b)) return true;
	return false;
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
	b->records = (uint32_t)(mft_clusters(b) * b->cluster / b->record_size);
	for (uint32_t i = 0; i < b->records; i++) {
		if (!continues_mft(b, i))
			continue;
		take_runs(b, i, AT_DATA, &b->mft);
		b->records = (uint32_t)(mft_clusters(b) * b->cluster / b->record_size);
		i = 0;
	}
	find_interesting(b);
}

void make_base(struct base *b)
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
	                  "--names", "3", "--spare", b->spare, path),
	         0);
	int r = RUN_TOOL(populate_tool, "--seed", "2", "--files", b->files, "--file-size", b->large, "--streams", "2",
	                 path);
	CHECK(r == 0 || r == 3); /* a full volume is as good */
	CHECK_IS(RUN_TOOL(scatter_tool, "--what", "all", "--max-run", b->max_run, path), 0);
	CHECK_IS(RUN_TOOL(check_tool, path), 0);
	b->bytes = malloc(b->size);
	CHECK(b->bytes && pread(fd, b->bytes, b->size, 0) == (ssize_t)b->size);
	close(fd);
	understand(b);
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: the parent of a guest pass believes nothing that its child says. Whatever a child sends that took orders
 * from the guest: an error comes back, the store has the bytes and names that it had before, and no process is left
 * behind.
 *
 * The worker_run() below takes the place of the library's: it runs in the child, in the sandbox, and lies.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "defrag/worker.h"
#include "tests/defrag/child_lies.h"
#include "tests/defrag/child_says.h"
#include "tests/mapdb/check.h"

#define TOLD 1000 /* progress calls until a hanging child is given up */

static const struct lie *current;

int worker_run(const struct image *image, const struct pass_options *options, int write_fd, int scratch_fd)
{
	(void)image, (void)options;
	child_writer.fd = write_fd;
	lie_scratch_fd = scratch_fd;
	current->tell();
	return 0;
}

/* ---- the store before and after ---- */

struct entry {
	char path[300];
	ino_t inode;
	mode_t mode;
	uint64_t size, hash;
};

struct snapshot {
	struct entry entries[16];
	size_t count;
};

static uint64_t hash_file(int fd)
{
	static uint8_t buffer[1 << 16];
	uint64_t hash = 14695981039346656037u;
	ssize_t done;
	while ((done = read(fd, buffer, sizeof(buffer))) > 0)
		for (ssize_t i = 0; i < done; i++)
			hash = (hash ^ buffer[i]) * 1099511628211u;
	return hash;
}

static void look_at(int dir_fd, const char *prefix, struct snapshot *s)
{
	DIR *directory = fdopendir(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY));
	struct dirent *found;
	CHECK(directory);
	while ((found = readdir(directory))) {
		struct stat status;
		if (!strcmp(found->d_name, ".") || !strcmp(found->d_name, ".."))
			continue;
		CHECK(s->count < 16);
		struct entry *entry = &s->entries[s->count++];
		int fd = openat(dir_fd, found->d_name, O_RDONLY);
		CHECK(fd >= 0 && fstat(fd, &status) == 0);
		memset(entry, 0, sizeof(*entry));
		snprintf(entry->path, sizeof(entry->path), "%s%s", prefix, found->d_name);
		entry->inode = status.st_ino;
		entry->mode = status.st_mode;
		if (S_ISDIR(status.st_mode)) {
			look_at(fd, "bundle/", s);
		} else {
			entry->size = (uint64_t)status.st_size;
			entry->hash = hash_file(fd);
		}
		close(fd);
	}
	closedir(directory);
}

static int compare_entries(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->path, ((const struct entry *)b)->path);
}

static void take_snapshot(int dir_fd, struct snapshot *s)
{
	memset(s, 0, sizeof(*s));
	look_at(dir_fd, "", s);
	qsort(s->entries, s->count, sizeof(*s->entries), compare_entries);
}

/* ---- passes ---- */

static unsigned int told;

static int progress(void *context, unsigned int number, enum pass_phase phase, uint64_t done, uint64_t total)
{
	(void)context, (void)number, (void)phase, (void)done, (void)total;
	return ++told > (current->tell == flood_of_progress ? TOLD : 3) && current->result == -ECANCELED;
}

enum kind { PASS, DRY_RUN, FIND_FREE };

static int run(int dir_fd, struct pass_report *report, enum kind kind)
{
	struct owner_query owners[QUERIES] = {{.guest_off = VOLUME_OFF}};
	struct pass_options options = {.progress = progress,
	                               .dry_run = kind == DRY_RUN,
	                               .find_free = kind == FIND_FREE,
	                               .cluster_maps = true,
	                               .owners = owners,
	                               .owner_count = QUERIES};
	struct image *image;
	told = 0;
	CHECK_IS(image_open(&io_posix, dir_fd, "disk.img", IMAGE_EXCLUSIVE, 0, 1000, &image), 0);
	int r = guest_pass_run(image, &options, report);
	image_close(image);
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
	for (size_t i = 0; i < QUERIES; i++)
		free(owners[i].path);
	return r;
}

static void check_lie(int dir_fd, const struct lie *lie, enum kind kind)
{
	static struct snapshot before, after;
	unsigned int descriptors = count_descriptors();
	take_snapshot(dir_fd, &before);
	for (lie_variant = 0; lie_variant < lie->variants; lie_variant++) {
		struct pass_report report;
		struct timespec start, end;
		current = lie;
		static const char *const kinds[] = {"", ", dry run", ", asked what is free"};
		check_context("a child that %s (%u)%s", lie->name, lie_variant, kinds[kind]);
		clock_gettime(CLOCK_MONOTONIC, &start);
		CHECK_IS(run(dir_fd, &report, kind), lie->result);
		clock_gettime(CLOCK_MONOTONIC, &end);
		if (getenv("VERBOSE"))
			printf("%-40s %u %ld ms\n", lie->name, lie_variant,
			       (end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1000000);
		CHECK_IS(report.changed, false);
		pass_report_free(&report);
		take_snapshot(dir_fd, &after);
		CHECK(!memcmp(&before, &after, sizeof(before)));
		CHECK_IS(count_descriptors(), descriptors);
	}
}

/* The same messages without a lie are carried out: it is not something else that makes the parent refuse. */
static void check_honest(int dir_fd)
{
	static const struct lie honesty = {"is honest", honest, 1, 0};
	struct pass_report report;
	current = &honesty;
	check_context("an honest child");
	CHECK_IS(run(dir_fd, &report, PASS), 0);
	CHECK_IS(report.changed, true);
	CHECK(report.pictures && report.pictures[0].before && !report.pictures[0].after);
	CHECK(report.map_before && report.map_after && report.map_before != report.map_after);
	pass_report_free(&report);
}

static void check_free(int dir_fd)
{
	static const struct lie honesty = {"is honest", honest_about_free, 1, 0};
	struct pass_report report;
	for (size_t i = 0; i < free_lie_count; i++)
		check_lie(dir_fd, &free_lies[i], FIND_FREE);
	current = &honesty;
	check_context("an honest child that was asked what is free");
	CHECK_IS(run(dir_fd, &report, FIND_FREE), 0);
	CHECK_IS(report.free_count, 2);
	CHECK(report.free[0].guest_off == VOLUME_OFF + 4096 && report.free[0].length == 8 * 512);
	CHECK(report.free[1].guest_off == VOLUME_OFF + 16384 && report.free[1].length == 16 * 512);
	pass_report_free(&report);
	check_context("a child that tells what is free, but was not asked");
	CHECK_IS(run(dir_fd, &report, PASS), -ECHILD);
	pass_report_free(&report);
}

static void make_image(int dir_fd)
{
	uint8_t *bytes = malloc(IMAGE_SIZE);
	CHECK(bytes);
	random_bytes(bytes, IMAGE_SIZE);
	write_file(dir_fd, "disk.img", bytes, IMAGE_SIZE);
	free(bytes);
}

int main(void)
{
	const struct rlimit none = {0, 0};
	setrlimit(RLIMIT_CORE, &none);
	random_start();
	int dir_fd = scratch_directory();
	make_image(dir_fd);
	for (size_t i = 0; i < lie_count; i++)
		check_lie(dir_fd, &lies[i], PASS);
	check_free(dir_fd);
	check_honest(dir_fd); /* from here on the image is a bundle */
	for (size_t i = 0; i < lie_count; i++)
		check_lie(dir_fd, &lies[i], PASS);
	check_honest(dir_fd);
	check_free(dir_fd);
	for (size_t i = 0; i < lie_count; i++)
		check_lie(dir_fd, &lies[i], DRY_RUN);
	return 0;
}

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
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "defrag/message.h"
#include "defrag/worker.h"
#include "tests/mapdb/check.h"

#define IMAGE_SIZE   (4u << 20)
#define VOLUME_OFF   (63u * 512)
#define VOLUME_END   (3u << 20)
#define QUERIES      2 /* whose a byte is */
#define FALSE_OWNERS 7u
#define TOLD         1000 /* progress calls until a hanging child is given up */

static struct message_writer writer;

static void tell(enum message_type type, const void *payload, size_t size)
{
	message_send(&writer, type, payload, size, NULL, 0);
	message_flush(&writer);
}

static void tell_raw(const void *bytes, size_t size)
{
	CHECK_IS(write(writer.fd, bytes, size), size);
}

/* ---- what an honest child would say ---- */

static struct volume_report volume(void)
{
	return (struct volume_report){.number = 1,
	                              .off = VOLUME_OFF,
	                              .length = VOLUME_END - VOLUME_OFF,
	                              .scheme = "mbr",
	                              .file_system = "ntfs",
	                              .cluster_size = 512};
}

static void tell_volume(void)
{
	struct disk_message disk = {0};
	struct volume_report report = volume();
	tell(MESSAGE_DISK, &disk, sizeof(disk));
	tell(MESSAGE_VOLUME, &report, sizeof(report));
}

static void tell_moves(uint64_t new_1, uint64_t old_1, uint64_t length_1, uint64_t new_2, uint64_t old_2,
                       uint64_t length_2)
{
	struct map_move moves[] = {{new_1, old_1, length_1}, {new_2, old_2, length_2}};
	tell(MESSAGE_MOVES, moves, sizeof(moves));
}

static void tell_exchange(void)
{
	tell_moves(VOLUME_OFF + 1024, VOLUME_OFF + 8192, 512, VOLUME_OFF + 8192, VOLUME_OFF + 1024, 512);
}

static void tell_redo(uint64_t host_off, size_t length)
{
	static struct redo_blob blob;
	static const uint8_t bytes[1024] = "changed";
	blob.size = 0;
	CHECK_IS(redo_blob_put(&blob, host_off, bytes, 0, length), length);
	tell(MESSAGE_REDO, blob.data, blob.size);
}

static void tell_entry(uint64_t host_off, uint32_t length, uint32_t fill)
{
	uint8_t blob[REDO_ENTRY_HEADER_SIZE];
	memcpy(blob, &host_off, 8);
	memcpy(blob + 8, &length, 4);
	memcpy(blob + 12, &fill, 4);
	tell(MESSAGE_REDO, blob, sizeof(blob));
}

#define CLUSTERS ((VOLUME_END - VOLUME_OFF) / 512)

/* A volume in which everything is free. */
static void tell_cluster_map(void)
{
	struct cluster_map_message m = {.volume = 1, .clusters = CLUSTERS};
	struct cluster_map *map;
	CHECK_IS(cluster_map_new(CLUSTERS, &map), 0);
	message_send(&writer, MESSAGE_CLUSTER_MAP, &m, sizeof(m), map->counts, cluster_map_size(map));
	message_flush(&writer);
	cluster_map_free(map);
}

static void tell_end(void)
{
	struct end_message end = {0};
	tell(MESSAGE_END, &end, sizeof(end));
}

static void honest(void)
{
	tell_volume();
	tell_cluster_map();
	tell_exchange();
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}

/* ---- lies ---- */

static void say_nothing(void)
{
}

static void no_end(void)
{
	tell_volume();
	tell_exchange();
	tell_redo(VOLUME_OFF + 4096, 100);
}

static void crash(void)
{
	no_end();
	__builtin_trap();
}

static void wait_for_ever(void)
{
	for (;;)
		sched_yield();
}

static void hang(void)
{
	no_end();
	wait_for_ever();
}

static void hang_in_a_message(void)
{
	struct message_header header = {.type = MESSAGE_MOVES, .size = sizeof(struct map_move)};
	tell_raw(&header, sizeof(header));
	wait_for_ever();
}

static void end_and_hang(void)
{
	tell_volume();
	tell_end();
	wait_for_ever();
}

static void flood_of_progress(void)
{
	struct progress_message m = {.total = 1};
	for (;;)
		tell(MESSAGE_PROGRESS, &m, sizeof(m));
}

static void flood_of_empty_moves(void)
{
	tell_volume();
	for (;;)
		tell_moves(VOLUME_OFF, VOLUME_OFF, 0, VOLUME_OFF, VOLUME_OFF, 0);
}

static void flood_of_moves(void)
{
	tell_volume();
	for (;;)
		tell_exchange();
}

static void flood_of_redo(void)
{
	tell_volume();
	for (;;)
		tell_entry(VOLUME_OFF, VOLUME_END - VOLUME_OFF, 0);
}

static int scratch;

/* More than the parent can look at in one go, and then says nothing any more. */
static void flood_of_scratch(void)
{
	static uint8_t bytes[1 << 16];
	tell_volume();
	for (off_t off = 0; off < 128 << 20; off += sizeof(bytes))
		if (pwrite(scratch, bytes, sizeof(bytes), off) < 0)
			break;
	wait_for_ever();
}

static void garbage(void)
{
	uint8_t bytes[4096];
	random_bytes(bytes, sizeof(bytes));
	tell_raw(bytes, sizeof(bytes));
}

static void garbage_later(void)
{
	tell_volume();
	garbage();
}

static void half_a_header(void)
{
	tell_raw("\1\0\0", 3);
}

static void half_a_message(void)
{
	struct message_header header = {.type = MESSAGE_END, .size = sizeof(struct end_message)};
	no_end();
	tell_raw(&header, sizeof(header));
	tell_raw("almost", 6);
}

static void oversized(void)
{
	struct message_header header = {.type = MESSAGE_REDO, .size = MESSAGE_SIZE_MAX + 1};
	tell_volume();
	tell_raw(&header, sizeof(header));
}

static void unknown_type(void)
{
	tell((enum message_type)77, "x", 1);
	tell_end();
}

/* Every kind of message, one byte too short and one too long; which one by the number. */
static unsigned int variant;

static void wrong_size(void)
{
	static const size_t sizes[] = {
	        sizeof(struct progress_message), sizeof(struct volume_report),       sizeof(struct disk_message),
	        sizeof(struct file_message),     3 * sizeof(struct map_move),        REDO_ENTRY_HEADER_SIZE + 1,
	        sizeof(struct end_message),      sizeof(struct cluster_map_message), sizeof(struct owner_message),
	        sizeof(struct file_message),     sizeof(struct found_message)};
	static uint8_t zeros[sizeof(struct volume_report) + 1];
	tell_volume();
	tell((enum message_type)(1 + variant / 2), zeros, sizes[variant / 2] - 1 + variant % 2 * 2);
	tell_end();
}
#define WRONG_SIZES 22u

static void tell_false_volume(void)
{
	struct volume_report v = volume();
	switch (variant) {
	case 0:
		v.number = 0;
		break;
	case 1:
		v.number = 2; /* where is the first? */
		break;
	case 2:
		v.result = (enum volume_result)(VOLUME_FAILED + 1);
		break;
	case 3:
		v.off = IMAGE_SIZE + 512;
		break;
	case 4:
		v.length = IMAGE_SIZE;
		break;
	case 5:
		v.length = UINT64_MAX;
		break;
	case 6:
		v.off = UINT64_MAX - 511;
		v.length = 1024;
		break;
	case 7:
		memset(v.label, 'x', sizeof(v.label));
		break;
	case 8:
		memset(v.cause, 'x', sizeof(v.cause));
		break;
	case 9:
		memset(v.scheme, 'x', sizeof(v.scheme));
		break;
	default:
		v.result = (enum volume_result) - 1;
	}
	tell(MESSAGE_VOLUME, &v, sizeof(v));
	honest();
}
#define FALSE_VOLUMES 11u

/* The bounds grow after they were believed. */
static void bounds_change(void)
{
	struct volume_report v = volume();
	tell_volume();
	tell_exchange();
	v.length += variant ? 512 : 0;
	v.off -= variant ? 0 : 512;
	tell(MESSAGE_VOLUME, &v, sizeof(v));
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}

/* A volume that was out of bounds as long as it was refused. */
static void refusal_withdrawn(void)
{
	struct volume_report v = volume();
	v.off = variant ? UINT64_MAX - 511 : 0;
	v.length = UINT64_MAX;
	v.result = VOLUME_REFUSED;
	tell(MESSAGE_VOLUME, &v, sizeof(v));
	v.result = VOLUME_DONE;
	tell(MESSAGE_VOLUME, &v, sizeof(v));
	tell_exchange();
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}

static void tell_false_moves(void)
{
	const uint64_t off = VOLUME_OFF, end = VOLUME_END;
	if (variant)
		tell_volume(); /* 0: there is no volume to move anything in */
	switch (variant) {
	case 1: /* both get the same */
		tell_moves(off, off + 512, 512, off + 512, off + 512, 512);
		break;
	case 2: /* one place gets both */
		tell_moves(off, off + 512, 512, off, off, 512);
		break;
	case 3: /* what is there is lost */
		tell_moves(off, off + 512, 512, off + 2048, off, 512);
		break;
	case 4: /* lengths that do not agree */
		tell_moves(off, off + 1024, 512, off + 1024, off, 1024);
		break;
	case 5: /* overlap */
		tell_moves(off, off + 512, 1024, off + 512, off, 1024);
		break;
	case 6: /* no multiple of a unit */
		tell_moves(off, off + 1000, 1000, off + 1000, off, 1000);
		break;
	case 7: /* the partition table for a boot sector */
		tell_moves(0, off, 512, off, 0, 512);
		break;
	case 8: /* into the next volume */
		tell_moves(end - 512, off, 1024, off, end - 512, 1024);
		break;
	case 9: /* out of the image */
		tell_moves(off, IMAGE_SIZE, 512, IMAGE_SIZE, off, 512);
		break;
	case 10: /* around the end of all numbers */
		tell_moves(off, off + 512, UINT64_MAX - 511, off + 512, off, 512);
		break;
	case 11:
		tell_moves(off, UINT64_MAX - 511, 1024, UINT64_MAX - 511, off, 1024);
		break;
	case 12: /* a gap between two */
		tell_moves(off, off + 512, 512, off + 1024, off, 512);
		break;
	case 13: /* an empty message before an honest one */
		tell(MESSAGE_MOVES, "", 0);
		tell_exchange();
		break;
	default:
		tell_exchange();
	}
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}
#define FALSE_MOVES 14u

static void moves_alone(void)
{
	tell_volume();
	tell_exchange();
	tell_end();
}

static void redo_alone(void)
{
	tell_volume();
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}

static void tell_false_redo(void)
{
	static const uint8_t blob[] = {0, 0, 1, 0, 0, 0, 0, 0, 200, 0, 0, 0, 255, 255, 255, 255, 'x'};
	tell_volume();
	tell_exchange();
	switch (variant) {
	case 0: /* before the volume, behind it, across its borders */
		tell_redo(0, 512);
		break;
	case 1:
		tell_redo(VOLUME_OFF - 1, 1);
		break;
	case 2:
		tell_redo(VOLUME_OFF - 1, 2);
		break;
	case 3:
		tell_redo(VOLUME_END - 1, 2);
		break;
	case 4:
		tell_redo(VOLUME_END, 1);
		break;
	case 5: /* where the image has no bytes */
		tell_redo(3ul * IMAGE_SIZE, 1);
		break;
	case 6:
		tell_redo(UINT64_MAX - 3, 8);
		break;
	case 7:
		tell_entry(VOLUME_OFF, UINT32_MAX - 1, 0);
		break;
	case 8: /* nothing */
		tell_entry(VOLUME_OFF, 0, 0);
		break;
	case 9: /* a fill with no byte */
		tell_entry(VOLUME_OFF, 4, 256);
		break;
	case 10: /* a blob that ends too early */
		tell(MESSAGE_REDO, blob, sizeof(blob));
		break;
	case 11:
		tell(MESSAGE_REDO, blob, 7);
		break;
	default:
		break;
	}
	tell_end();
}
#define FALSE_REDO 12u

static void false_texts(void)
{
	struct disk_message disk = {.result = variant ? VOLUME_DONE : VOLUME_FAILED + 1};
	if (variant)
		memset(variant == 1 ? disk.cause : disk.remedy, 'x', sizeof(disk.cause));
	tell(MESSAGE_DISK, &disk, sizeof(disk));
	honest();
}

static void false_file(void)
{
	struct file_message file = {.volume = 1, .path_length = variant ? UINT16_MAX : 1, .stream_length = UINT16_MAX};
	tell_volume();
	tell(MESSAGE_FILE, &file, sizeof(file));
	tell_exchange();
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}

static void tell_owner(uint32_t query, uint32_t kind, uint32_t number, size_t path_length)
{
	static const char path[1 << 15];
	struct owner_message owner = {.query = query, .kind = kind, .volume = number};
	message_send(&writer, MESSAGE_OWNER, &owner, sizeof(owner), path, path_length);
	message_flush(&writer);
}

static void false_owner(void)
{
	static const struct {
		uint32_t query, kind, number;
		size_t path_length;
	} lies[] = {
	        {QUERIES, OWNER_STREAM, 1, 1}, {UINT32_MAX, OWNER_STREAM, 1, 1}, {0, OWNER_STREAM + 1, 1, 1},
	        {0, OWNER_STREAM, 0, 1},       {0, OWNER_STREAM, 2, 1},          {0, OWNER_STREAM, 1, 1 << 15},
	};
	tell_volume();
	if (variant == FALSE_OWNERS - 1) { /* the same twice */
		tell_owner(0, OWNER_FREE, 1, 1);
		tell_owner(0, OWNER_FREE, 1, 1);
	} else {
		tell_owner(lies[variant].query, lies[variant].kind, lies[variant].number, lies[variant].path_length);
	}
	tell_exchange();
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}

static void false_progress(void)
{
	struct progress_message m = {.phase = variant ? UINT32_MAX : PHASE_COUNT};
	tell_volume();
	tell(MESSAGE_PROGRESS, &m, sizeof(m));
	honest();
}

/* Not lies, but nothing may come of them either. */
static void refused_after_all(void)
{
	struct volume_report v = volume();
	no_end();
	v.result = (enum volume_result)(VOLUME_REFUSED + variant);
	tell(MESSAGE_VOLUME, &v, sizeof(v));
	tell_end();
}

static void nothing_to_do(void)
{
	if (variant)
		tell_volume();
	tell_end();
}

static void false_cluster_map(void)
{
	struct cluster_map_message m = {.volume = 1, .clusters = CLUSTERS};
	struct cluster_map *map;
	CHECK_IS(cluster_map_new(CLUSTERS, &map), 0);
	size_t size = cluster_map_size(map);
	uint64_t *cell = map->counts[variant % map->cells];
	tell_volume();
	switch (variant) {
	case 0:
		m.volume = 0;
		break;
	case 1:
		m.volume = 2;
		break;
	case 2:
		m.after = 2;
		break;
	case 3:
		m.clusters = 0;
		break;
	case 4: /* as many cells, but more than the volume has bytes for */
		m.clusters = CLUSTERS + 1;
		map->counts[map->cells - 1][CLUSTER_FREE]++;
		break;
	case 5:
		size -= sizeof(*map->counts);
		break;
	case 6:
		cell[CLUSTER_FILE]++;
		break;
	case 7:
		cell[CLUSTER_FREE]--;
		break;
	case 8: /* adds up, modulo 2^64 */
		cell[CLUSTER_FILE] = UINT64_MAX;
		cell[CLUSTER_FREE]++;
		break;
	default:
		size = 0;
	}
	message_send(&writer, MESSAGE_CLUSTER_MAP, &m, sizeof(m), map->counts, size);
	message_flush(&writer);
	cluster_map_free(map);
	tell_exchange();
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}
#define FALSE_CLUSTER_MAPS 10u

/* Nobody asked for a file. */
static void find_what_is_not_wanted(void)
{
	struct found_message m = {.file = variant ? UINT64_MAX : 0};
	tell_volume();
	tell(MESSAGE_FOUND, &m, sizeof(m));
	tell_end();
}

struct lie {
	const char *name;
	void (*tell)(void);
	unsigned int variants;
	int result;
};

static const struct lie lies[] = {
        {"says nothing", say_nothing, 1, -ECHILD},
        {"does not come to an end", no_end, 1, -ECHILD},
        {"crashes", crash, 1, -ECHILD},
        {"hangs", hang, 1, -ECANCELED},
        {"hangs in a message", hang_in_a_message, 1, -ECANCELED},
        {"tells progress for ever", flood_of_progress, 1, -ECANCELED},
        {"moves nothing for ever", flood_of_empty_moves, 1, -ECHILD},
        {"moves for ever", flood_of_moves, 1, -ECHILD},
        {"changes bytes for ever", flood_of_redo, 1, -ECHILD},
        {"fills memory by its file there", flood_of_scratch, 1, -ECHILD},
        {"sends garbage", garbage, 20, -ECHILD},
        {"sends garbage later", garbage_later, 20, -ECHILD},
        {"sends half a header", half_a_header, 1, -ECHILD},
        {"sends half a message", half_a_message, 1, -ECHILD},
        {"sends too long a message", oversized, 1, -ECHILD},
        {"sends a message of no type", unknown_type, 1, -ECHILD},
        {"sends messages of the wrong size", wrong_size, WRONG_SIZES, -ECHILD},
        {"invents volumes", tell_false_volume, FALSE_VOLUMES, -ECHILD},
        {"changes a volume's bounds", bounds_change, 2, -ECHILD},
        {"withdraws a refusal", refusal_withdrawn, 2, -ECHILD},
        {"moves what it must not", tell_false_moves, FALSE_MOVES, -ECHILD},
        {"moves without changes", moves_alone, 1, -ECHILD},
        {"changes without moves", redo_alone, 1, -ECHILD},
        {"changes what it must not", tell_false_redo, FALSE_REDO, -ECHILD},
        {"sends texts without an end", false_texts, 3, -ECHILD},
        {"sends paths without an end", false_file, 2, -ECHILD},
        {"draws what cannot be", false_cluster_map, FALSE_CLUSTER_MAPS, -ECHILD},
        {"knows whose what is that nobody asked for", false_owner, FALSE_OWNERS, -ECHILD},
        {"finds what is not wanted", find_what_is_not_wanted, 2, -ECHILD},
        {"is in no phase", false_progress, 2, -ECHILD},
        {"hangs after the end", end_and_hang, 1, 0},
        {"refuses after all", refused_after_all, 3, 0},
        {"finds nothing to do", nothing_to_do, 2, 0},
};

static const struct lie *current;

int worker_run(const struct image *image, const struct pass_options *options, int write_fd, int scratch_fd)
{
	(void)image, (void)options;
	writer.fd = write_fd;
	scratch = scratch_fd;
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

static int run(int dir_fd, struct pass_report *report, bool dry_run)
{
	struct owner_query owners[QUERIES] = {{.guest_off = VOLUME_OFF}};
	struct pass_options options = {.progress = progress,
	                               .dry_run = dry_run,
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

static void check_lie(int dir_fd, const struct lie *lie, bool dry_run)
{
	static struct snapshot before, after;
	unsigned int descriptors = count_descriptors();
	take_snapshot(dir_fd, &before);
	for (variant = 0; variant < lie->variants; variant++) {
		struct pass_report report;
		struct timespec start, end;
		current = lie;
		check_context("a child that %s (%u)%s", lie->name, variant, dry_run ? ", dry run" : "");
		clock_gettime(CLOCK_MONOTONIC, &start);
		CHECK_IS(run(dir_fd, &report, dry_run), lie->result);
		clock_gettime(CLOCK_MONOTONIC, &end);
		if (getenv("VERBOSE"))
			printf("%-40s %u %ld ms\n", lie->name, variant,
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
	CHECK_IS(run(dir_fd, &report, false), 0);
	CHECK_IS(report.changed, true);
	CHECK(report.pictures && report.pictures[0].before && !report.pictures[0].after);
	CHECK(report.map_before && report.map_after && report.map_before != report.map_after);
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
	for (size_t i = 0; i < sizeof(lies) / sizeof(*lies); i++)
		check_lie(dir_fd, &lies[i], false);
	check_honest(dir_fd); /* from here on the image is a bundle */
	for (size_t i = 0; i < sizeof(lies) / sizeof(*lies); i++)
		check_lie(dir_fd, &lies[i], false);
	check_honest(dir_fd);
	for (size_t i = 0; i < sizeof(lies) / sizeof(*lies); i++)
		check_lie(dir_fd, &lies[i], true);
	return 0;
}

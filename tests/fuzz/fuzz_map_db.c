/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: a bundle's map.db. Byte 0 says what is done with it, see enum flags. Then either patches to the file (and,
 * behind its end, to a journal that a crash has left), or rows, see take_row(), of which many break what the tables'
 * own checks promise.
 *
 * Promise: whoever only looks writes nothing. A database that opens has a map that covers the image and shares no host
 * byte; what cannot is refused as damaged. What then changes the image leaves one that opens, and does what it should
 * to the guest's bytes: nothing, but for redo.
 */
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mapdb/check.h"
#include "mapdb/image.h"
#include "mapdb/image_settle.h"
#include "tests/fuzz/fuzz_extents.h"
#include "tests/fuzz/patches.h"
#include "tests/mapdb/check.h"
#include "tests/mapdb/super_journal.h"

#define DATA_SIZE  32768u
#define FILE_MAX   (1u << 18)
#define VIEW_MAX   65536u
#define HOST_MAX   (UINT64_C(1) << 30) /* for what really settles */
#define STEPS_MAX  64
#define CHANGE_OFF 4096u /* host offset of the bytes that a change changes */
#define CHANGE_END 1536u /* guest offset where the units end that it exchanges */

enum flags {
	ROWS = 1,     /* the input is rows, not patches */
	JOURNAL = 2,  /* there is a journal */
	DO = 4 | 8,   /* nothing more; settle; change and undo; undo */
	SHARED = 16,  /* opens the image as the daemon does, before */
	CHECKS = 32,  /* as zcfs-check does */
	REPAIRS = 64, /* with --repair */
	SUPER = 128,  /* the journal, if there is one, names a super-journal: byte 1 says which */
};

/* ---- bundles to begin with ---- */

struct file {
	size_t size;
	uint8_t bytes[FILE_MAX];
};

static struct file sound, journal; /* journal: of a change to sound */
static uint8_t data_bytes[DATA_SIZE];
static int store_fd, bundle_fd;
static bool committing;

static void load(const char *name, struct file *file)
{
	int fd = openat(bundle_fd, name, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? 0 : read(fd, file->bytes, sizeof(file->bytes));
	CHECK(size >= 0 && (size_t)size < sizeof(file->bytes));
	file->size = (size_t)size;
	if (fd >= 0)
		close(fd);
}

static int keep_journal(const struct io *io, int dir_fd, const char *name, int flags)
{
	(void)io;
	if (committing) {
		load("map.db-journal", &journal);
		load("map.db", &sound); /* as the change would make it */
		committing = false;
	}
	return io_posix.unlink(&io_posix, dir_fd, name, flags);
}

static struct image *open_exclusive(const struct io *io)
{
	struct image *image;
	CHECK_IS(image_open(io, store_fd, "disk", IMAGE_EXCLUSIVE, 0, 1000, &image), 0);
	return image;
}

/* Exchanges two units, with a byte of redo and a row in each table of the history. */
static void change(struct image *image)
{
	static const struct map_move moves[] = {{512, 1024, 512}, {1024, 512, 512}};
	static const struct run_record run = {.operation = "defrag", .options = ""};
	static const struct file_record file = {.volume = 1, .record = 30, .path = "a/b", .attribute = "$DATA"};
	static struct redo_blob redo, undo;
	struct image_map *map;
	uint8_t old[3];
	CHECK_IS(pread(image->data_fd, old, sizeof(old), CHANGE_OFF), sizeof(old));
	redo.size = undo.size = 0;
	redo_blob_put(&redo, CHANGE_OFF, (const uint8_t *)"new", 0, sizeof(old));
	redo_blob_put(&undo, CHANGE_OFF, old, 0, sizeof(old));
	CHECK_IS(image_begin(image), 0);
	CHECK_IS(map_db_put_run(image->db, &run), 0);
	CHECK_IS(map_db_put_file(image->db, &file), 0);
	CHECK_IS(map_db_put_redo(image->db, &redo, &undo), 0);
	CHECK_IS(image_map_permute(image->map, moves, 2, &map), 0);
	CHECK_IS(map_db_put_map(image->db, map), 0);
	image_map_unref(map);
}

static bool never(void *context)
{
	(void)context;
	return false;
}

/* The journal is one that is rolled back. */
static void check_journal_counts(void)
{
	for (uint64_t generation = 3; generation >= 2; generation--) {
		struct map_db *db;
		struct map_state state;
		write_file(bundle_fd, "map.db", sound.bytes, sound.size);
		if (generation == 2)
			write_file(bundle_fd, "map.db-journal", journal.bytes, journal.size);
		CHECK_IS(map_db_open(&io_posix, bundle_fd, 0, &db), 0);
		CHECK_IS(map_db_read_state(db, &state), 0);
		CHECK_IS(state.generation, generation);
		map_db_close(db);
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static struct io io;
	(void)argc, (void)argv;
	store_fd = scratch_directory();
	for (size_t i = 0; i < sizeof(data_bytes); i++)
		data_bytes[i] = (uint8_t)(i / 512 * 37 + i % 512 / 9);
	write_file(store_fd, "disk", data_bytes, sizeof(data_bytes));
	io = io_posix;
	io.unlink = keep_journal;
	struct image *image = open_exclusive(&io);
	change(image);
	CHECK_IS(image_commit(image), 0);
	bundle_fd = openat(store_fd, "disk", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(bundle_fd >= 0);
	change(image);
	committing = true;
	CHECK_IS(image_commit(image), 0);
	image_close(image);
	CHECK(sound.size && journal.size);
	check_journal_counts();
	return 0;
}

/* ---- rows ---- */

#define INSERTS 7u /* kinds of rows */

static sqlite3_stmt *statements[INSERTS];
static const char *const inserts[INSERTS] = {
        "INSERT OR REPLACE INTO extent VALUES (?1, ?2, ?3)",
        "INSERT OR REPLACE INTO undo_extent VALUES (?1, ?2, ?3)",
        "INSERT OR REPLACE INTO redo VALUES (?1, ?2)",
        "INSERT OR REPLACE INTO undo VALUES (?1, ?2)",
        "UPDATE image SET size = ?1, generation = ?2, redo_pending = ?3",
        "INSERT OR REPLACE INTO undo_stamp VALUES (1, ?1, ?2, NULL, ?3, ?4)",
        "INSERT OR REPLACE INTO settle VALUES (?1, ?2, ?3, ?4)",
};

/* In place of a row. The first makes a database of version 1. */
static const char *const schema_changes[] = {
        "DROP VIEW settle_history; DROP TABLE settle; PRAGMA user_version = 1",
        "CREATE TRIGGER t AFTER DELETE ON redo BEGIN DELETE FROM extent; END",
        "CREATE INDEX i ON extent(host_off)",
        "CREATE TABLE more(a)",
        "ALTER TABLE extent ADD COLUMN a",
        "DROP TABLE redo",
        "DROP VIEW summary",
        "PRAGMA user_version = 3",
        "DELETE FROM image",
        "DELETE FROM run",
};
#define SCHEMA_CHANGES (sizeof(schema_changes) / sizeof(*schema_changes))

static uint64_t extent_ends[2];

static void bind(sqlite3_stmt *statement, int parameter, uint64_t value)
{
	sqlite3_bind_int64(statement, parameter, (sqlite3_int64)value);
}

static void take_extent_row(struct input *input, sqlite3_stmt *insert, uint64_t *next)
{
	struct extent extent = take_extent(input, next);
	bind(insert, 1, extent.guest_off);
	bind(insert, 2, extent.length);
	bind(insert, 3, extent.host_off);
}

static void take_blob_row(struct input *input, sqlite3_stmt *insert)
{
	size_t length = take(input, 1);
	bind(insert, 1, take(input, 1));
	if (length > input_left(input))
		length = input_left(input);
	sqlite3_bind_blob(insert, 2, length ? (const void *)input->at : "", (int)length, SQLITE_STATIC);
	input->at += length;
}

/* Usually the true one. */
static uint64_t take_number(struct input *input, uint8_t any, uint64_t right)
{
	return any ? take(input, 8) : right;
}

static void take_stamp_row(struct input *input, sqlite3_stmt *insert)
{
	struct stat status;
	uint8_t any = (uint8_t)take(input, 1);
	CHECK_IS(fstatat(bundle_fd, "data", &status, 0), 0);
	uint64_t ctime = (uint64_t)status.st_ctim.tv_sec * 1000000000 + (uint64_t)status.st_ctim.tv_nsec;
	bind(insert, 1, take_number(input, any & 1, 3));
	bind(insert, 2, take_number(input, any & 2, extent_ends[1]));
	bind(insert, 3, take_number(input, any & 4, (uint64_t)status.st_size));
	bind(insert, 4, take_number(input, any & 8, ctime));
}

static void take_row(struct input *input, sqlite3 *connection)
{
	unsigned int kind = (unsigned int)take(input, 1) % (INSERTS + 1);
	sqlite3_stmt *insert = kind < INSERTS ? statements[kind] : NULL;
	uint8_t any;
	if (!insert) {
		sqlite3_exec(connection, schema_changes[take(input, 1) % SCHEMA_CHANGES], NULL, NULL, NULL);
		return;
	}
	switch (kind) {
	case 0:
	case 1:
		take_extent_row(input, insert, &extent_ends[kind]);
		break;
	case 2:
	case 3:
		take_blob_row(input, insert);
		break;
	case 4:
		any = (uint8_t)take(input, 1);
		bind(insert, 1, take_number(input, any & 1, extent_ends[0]));
		bind(insert, 2, take_number(input, any & 2, 3));
		bind(insert, 3, take_number(input, any & 4, any >> 7));
		break;
	case 5:
		take_stamp_row(input, insert);
		break;
	default:
		any = (uint8_t)take(input, 1);
		bind(insert, 1, take_number(input, any & 1, 2));
		bind(insert, 2, take_number(input, any & 2, (any >> 6) * SETTLE_PLANE_ALIGN));
		bind(insert, 3, take_number(input, any & 4, 4096));
		bind(insert, 4, take_number(input, any & 8, 0));
	}
	sqlite3_step(insert); /* what STRICT forbids is not put in */
	sqlite3_reset(insert);
}

static void write_rows(struct input input)
{
	char path[64];
	sqlite3 *connection;
	uint8_t tables = (uint8_t)take(&input, 1); /* that are kept as they are */
	snprintf(path, sizeof(path), "/proc/self/fd/%d/map.db", bundle_fd);
	CHECK_IS(sqlite3_open_v2(path, &connection, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
	CHECK_IS(sqlite3_exec(connection,
	                      "PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;"
	                      "PRAGMA ignore_check_constraints = ON; BEGIN",
	                      NULL, NULL, NULL),
	         SQLITE_OK);
	if (!(tables & 1))
		sqlite3_exec(connection, "DELETE FROM extent", NULL, NULL, NULL);
	if (!(tables & 2))
		sqlite3_exec(connection, "DELETE FROM undo_extent; DELETE FROM undo", NULL, NULL, NULL);
	for (size_t i = 0; i < INSERTS; i++)
		CHECK_IS(sqlite3_prepare_v2(connection, inserts[i], -1, &statements[i], NULL), SQLITE_OK);
	extent_ends[0] = extent_ends[1] = 0;
	while (input_left(&input))
		take_row(&input, connection);
	for (size_t i = 0; i < INSERTS; i++)
		sqlite3_finalize(statements[i]);
	sqlite3_exec(connection, "COMMIT", NULL, NULL, NULL);
	sqlite3_close(connection);
}

/* ---- the bundle of this input ---- */

static size_t put_super_journal(uint8_t *out, unsigned int which)
{
	static const char *const names[] = {
	        "/", "/usr", "/none", ".", "..", "data", "map.db", "map.db-journal", "map.db-wal", "../disk/data",
	};

	return super_journal_record(out, names[which % (sizeof(names) / sizeof(*names))]);
}

static void write_bundle(uint8_t flags, struct input input)
{
	static uint8_t both[2 * FILE_MAX + SUPER_JOURNAL_RECORD(100)];
	bool names_super = flags & SUPER && flags & JOURNAL;
	unsigned int super = names_super ? (unsigned int)take(&input, 1) : 0;
	size_t journal_size = journal.size;
	memcpy(both, sound.bytes, sound.size);
	memcpy(both + sound.size, journal.bytes, journal.size);
	if (!(flags & ROWS))
		patches_apply(input, both, sound.size + journal.size);
	empty_directory(bundle_fd);
	write_file(bundle_fd, "data", data_bytes, sizeof(data_bytes));
	write_file(bundle_fd, "map.db", both, sound.size);
	if (flags & ROWS)
		write_rows(input);
	if (names_super)
		journal_size += put_super_journal(both + sound.size + journal.size, super);
	if (flags & JOURNAL)
		write_file(bundle_fd, "map.db-journal", both + sound.size, journal_size);
}

/* Everything that a bundle has. */
struct snapshot {
	struct file db, journal, data;
};

static void take_snapshot(struct snapshot *snapshot)
{
	load("map.db", &snapshot->db);
	load("map.db-journal", &snapshot->journal);
	load("data", &snapshot->data);
}

static bool same_file(const struct file *a, const struct file *b)
{
	return a->size == b->size && !memcmp(a->bytes, b->bytes, a->size);
}

static struct snapshot before, after;

static void check_untouched(void)
{
	take_snapshot(&after);
	CHECK(same_file(&before.db, &after.db) && same_file(&before.journal, &after.journal));
	CHECK(same_file(&before.data, &after.data));
}

/* ---- looking ---- */

static bool is_refusal(int r)
{
	return r == -EUCLEAN || r == -EMEDIUMTYPE || r == -EFBIG || r == -EIO || r == -EROFS;
}

static void look_at_database(void)
{
	struct map_db *db;
	struct map_state state;
	struct image_map *map;
	struct redo_overlay *overlay;
	struct settle_record settle;
	struct run_record run;
	int r = map_db_open(&io_look, bundle_fd, MAP_DB_READ_ONLY, &db);
	if (r < 0) {
		CHECK(is_refusal(r));
		return;
	}
	bool known = map_db_read_state(db, &state) == 0;
	if (map_db_read_map(db, &map) == 0) {
		judge_map(map);
		CHECK(!known || state.size == image_map_size(map));
		image_map_unref(map);
	}
	if (map_db_read_undo_map(db, &map) == 0) {
		judge_map(map);
		image_map_unref(map);
	}
	if (map_db_read_redo(db, &overlay) == 0)
		redo_overlay_free(overlay);
	map_db_unfinished_settle(db, &settle, &run);
	map_db_close(db);
}

static size_t view_size(const struct image *image)
{
	uint64_t size = image_map_size(image->map);
	return size < VIEW_MAX ? (size_t)size : VIEW_MAX;
}

static void look_at_image(void)
{
	static uint8_t view[VIEW_MAX];
	struct image *image;
	int r = image_open(&io_look, store_fd, "disk", IMAGE_UNLOCKED, IMAGE_READ_ONLY, 0, &image);
	if (r < 0) {
		CHECK(is_refusal(r));
		return;
	}
	judge_map(image->map);
	CHECK(image->state.size == image_map_size(image->map));
	image_read(image, view, view_size(image), 0);
	image_close(image);
}

static void look_as_zcfs_check(bool repair)
{
	struct check_report report;
	int r = check_image(store_fd, "disk", NULL, &report);
	CHECK(r == 0 || is_refusal(r));
	check_untouched();
	if (r == 0 && repair)
		check_repair(&io_posix, store_fd, "disk", 0, NULL, &report);
	check_report_free(&report);
}

/* ---- changing ---- */

static uint8_t view_before[VIEW_MAX], view_after[VIEW_MAX];

static bool small(const struct image *image)
{
	return image_map_size(image->map) <= VIEW_MAX && image_map_host_end(image->map) <= HOST_MAX;
}

static void settle_it(struct image *image)
{
	static const struct settle_options options = {.threshold = 4096};
	static const struct settle_limits limits = {0};
	struct settle_progress progress = {0};
	struct image_settle *settle;
	if (!small(image) || image->read_only || image_settle_new(image, &options, never, NULL, &settle) < 0)
		return;
	int r = 0;
	for (int i = 0; r == 0 && !progress.finished; i++) {
		CHECK(i < STEPS_MAX);
		r = image_settle_step(settle, &limits, &progress);
	}
	image_settle_free(settle);
}

/* True if the guest must see afterwards what it saw before. */
static bool change_and_undo(struct image *image, bool changes)
{
	static const struct run_record run = {.operation = "undo"};
	if (changes) {
		if (image->read_only || image_map_size(image->map) < CHANGE_END)
			return true;
		change(image);
		if (image_commit(image) < 0)
			return false;
	}
	int r = image_undo(image, &run);
	CHECK(!changes || r == 0);
	return changes;
}

static void check_opens_again(uint64_t size)
{
	struct image *image;
	CHECK_IS(image_open(&io_posix, store_fd, "disk", IMAGE_EXCLUSIVE, 0, 1000, &image), 0);
	judge_map(image->map);
	CHECK(image_map_size(image->map) == size);
	if (size <= VIEW_MAX)
		CHECK_IS(image_read(image, view_after, size, 0), 0);
	image_close(image);
}

static void open_and_do(unsigned int what)
{
	struct image *image;
	int r = image_open(&io_posix, store_fd, "disk", IMAGE_EXCLUSIVE, 0, 1000, &image);
	if (r < 0) {
		CHECK(is_refusal(r));
		return;
	}
	judge_map(image->map);
	CHECK(image->state.size == image_map_size(image->map));
	CHECK(image_map_host_end(image->map) <= DATA_SIZE);
	uint64_t size = image_map_size(image->map);
	if (small(image))
		CHECK_IS(image_read(image, view_before, size, 0), 0);
	bool same = what < 2;
	if (what == 1)
		settle_it(image);
	else if (what)
		same = change_and_undo(image, what == 2);
	uint64_t size_now = image_map_size(image->map);
	image_close(image);
	check_opens_again(size_now);
	if (same && size <= VIEW_MAX)
		CHECK(!memcmp(view_before, view_after, size));
}

static void open_as_daemon(void)
{
	struct image *image;
	int r = image_open(&io_posix, store_fd, "disk", IMAGE_SHARED, 0, 0, &image);
	if (r < 0) {
		CHECK(is_refusal(r));
		return;
	}
	judge_map(image->map);
	image_read(image, view_before, view_size(image), 0);
	image_close(image);
}

/* After a change of the data file zcfs waits for the clock to tick. */
int __wrap_nanosleep(const struct timespec *request, struct timespec *rest);
int __wrap_nanosleep(const struct timespec *request, struct timespec *rest)
{
	(void)request, (void)rest;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = input_of(data, size);
	uint8_t flags = (uint8_t)take(&input, 1);
	write_bundle(flags, input);
	take_snapshot(&before);
	look_at_database();
	look_at_image();
	check_untouched();
	if (flags & CHECKS)
		look_as_zcfs_check(flags & REPAIRS);
	if (flags & SHARED)
		open_as_daemon();
	open_and_do((flags & DO) / 4);
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: a map database gives back what was put into it, and one that is damaged, foreign or hostile is refused with
 * the right error, whatever was done to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "mapdb/map_db.h"
#include "scenario.h"
#include "super_journal.h"

#define EXTENTS   2000u
#define EXTENT    4096u
#define BIT_FLIPS 3000

static struct image_map *shuffled_map(size_t count)
{
	struct extent *extents = malloc(count * sizeof *extents);
	uint64_t *places = malloc(count * sizeof *places);
	struct image_map *map;

	CHECK(extents && places);
	for (size_t i = 0; i < count; i++)
		places[i] = i;
	for (size_t i = count; i > 1; i--) {
		size_t j = random_below(i);
		uint64_t swap = places[i - 1];

		places[i - 1] = places[j];
		places[j] = swap;
	}
	for (size_t i = 0; i < count; i++)
		extents[i] = (struct extent){i * EXTENT, EXTENT, places[i] * EXTENT};
	CHECK_IS(image_map_new(extents, count, count * EXTENT, &map), 0);
	free(extents);
	free(places);
	return map;
}

static bool same_map(const struct image_map *a, const struct image_map *b)
{
	if (image_map_size(a) != image_map_size(b) || image_map_count(a) != image_map_count(b))
		return false;
	for (size_t i = 0; i < image_map_count(a); i++) {
		struct extent x = image_map_get(a, i), y = image_map_get(b, i);

		if (x.guest_off != y.guest_off || x.host_off != y.host_off)
			return false;
	}
	return true;
}

static void check_stored(int dir_fd, const struct image_map *map, uint64_t generation)
{
	struct map_db *db;
	struct map_state state;
	struct image_map *read;

	CHECK_IS(map_db_open(&io_fast, dir_fd, MAP_DB_READ_ONLY, &db), 0);
	CHECK_IS(map_db_read_state(db, &state), 0);
	CHECK_IS(state.generation, generation);
	CHECK_IS(state.size, image_map_size(map));
	CHECK_IS(map_db_read_map(db, &read), 0);
	CHECK(same_map(map, read));
	CHECK_IS(map_db_begin(db), -EROFS);
	image_map_unref(read);
	map_db_close(db);
}

/* A change with redo and history; leaves redo pending. */
static void change(struct map_db *db, const struct image_map *map)
{
	static struct redo_blob redo, undo;
	struct run_record run = {.operation = "defrag", .options = "--pack", .started_unix_s = 1000, .files_moved = 3};
	struct file_record file = {.volume = 1,
	                           .record = 30,
	                           .path = "/Windows/a \xc3\xa4",
	                           .attribute = "$DATA",
	                           .bytes = 8192,
	                           .fragments_before = 9,
	                           .fragments_after = 1};

	redo.size = undo.size = 0;
	redo_blob_put(&redo, 1024, (const uint8_t *)"new", 0, 3);
	redo_blob_put(&redo, 4096, NULL, 7, 5000);
	redo_blob_put(&undo, 1024, (const uint8_t *)"old", 0, 3);
	redo_blob_put(&undo, 4096, NULL, 0, 5000);
	CHECK_IS(map_db_begin(db), 0);
	CHECK_IS(map_db_put_file(db, &file), -EINVAL); /* before its run */
	CHECK_IS(map_db_put_redo(db, &redo, &undo), 0);
	CHECK_IS(map_db_put_run(db, &run), 0);
	CHECK_IS(map_db_put_file(db, &file), 0);
	CHECK_IS(map_db_put_map(db, map), 0);
	run.duration_ms = 1234;
	CHECK_IS(map_db_update_run(db, &run), 0);
	CHECK_IS(map_db_commit(db), 0);
}

static int make_data(int dir_fd)
{
	int fd = openat(dir_fd, "data", O_RDWR | O_CREAT | O_TRUNC, 0600);

	CHECK(fd >= 0);
	CHECK_IS(ftruncate(fd, EXTENTS * EXTENT), 0);
	CHECK_IS(pwrite(fd, "old", 3, 1024), 3);
	return fd;
}

static void check_life(int dir_fd, const struct image_map *first, const struct image_map *second)
{
	struct run_record run = {.operation = "undo"};
	struct map_db *db;
	struct map_state state;
	struct image_map *other;
	struct redo_overlay *overlay;
	char bytes[4] = {0};
	bool valid;
	int data_fd = make_data(dir_fd);

	CHECK_IS(map_db_create(&io_fast, dir_fd, first), 0);
	CHECK_IS(map_db_create(&io_fast, dir_fd, first), -EEXIST);
	check_stored(dir_fd, first, 1);
	CHECK_IS(map_db_open(&io_fast, dir_fd, 0, &db), 0);

	CHECK_IS(image_map_identity(EXTENT, &other), 0);
	CHECK_IS(map_db_begin(db), 0);
	CHECK_IS(map_db_put_map(db, other), -EINVAL); /* another size */
	CHECK_IS(map_db_rollback(db), 0);
	image_map_unref(other);

	change(db, second);
	CHECK_IS(map_db_read_state(db, &state), 0);
	CHECK(state.redo_pending && state.undo_recorded);
	CHECK_IS(map_db_begin(db), -EINPROGRESS);
	CHECK_IS(map_db_undo_valid(db, data_fd, &valid), 0);
	CHECK(!valid);
	CHECK_IS(map_db_read_redo(db, &overlay), 0);
	redo_overlay_patch(overlay, 1024, (uint8_t *)bytes, 3);
	CHECK(!strcmp(bytes, "new"));
	redo_overlay_free(overlay);
	CHECK_IS(map_db_reserve_redo(db, data_fd), 0);
	CHECK_IS(map_db_apply_redo(db, data_fd), 0);
	CHECK_IS(map_db_apply_redo(db, data_fd), 0); /* nothing to do */
	CHECK_IS(pread(data_fd, bytes, 3, 1024), 3);
	CHECK(!strcmp(bytes, "new"));
	check_stored(dir_fd, second, 2);

	CHECK_IS(map_db_undo_valid(db, data_fd, &valid), 0);
	CHECK(valid);
	CHECK_IS(map_db_begin(db), 0);
	CHECK_IS(map_db_put_undo(db, data_fd, &run), 0);
	CHECK_IS(map_db_commit(db), 0);
	CHECK_IS(map_db_apply_redo(db, data_fd), 0);
	CHECK_IS(pread(data_fd, bytes, 3, 1024), 3);
	CHECK(!strcmp(bytes, "old"));
	CHECK_IS(map_db_begin(db), 0);
	CHECK_IS(map_db_put_undo(db, data_fd, &run), -ENODATA);
	CHECK_IS(map_db_rollback(db), 0);
	check_stored(dir_fd, first, 3);
	map_db_close(db);
	close(data_fd);
}

static void check_copy(int dir_fd, int copy_dir_fd, const struct image_map *map)
{
	struct map_db *db;
	int fd = openat(copy_dir_fd, MAP_DB_NAME, O_RDWR | O_CREAT | O_EXCL, 0600);

	CHECK_IS(map_db_open(&io_fast, dir_fd, MAP_DB_READ_ONLY, &db), 0);
	CHECK_IS(map_db_copy(db, &io_fast, fd), 0);
	map_db_close(db);
	close(fd);
	check_stored(copy_dir_fd, map, 3);
	empty_directory(copy_dir_fd);
}

/* Reads everything that the library ever reads; the first error. */
static int read_all(int dir_fd)
{
	struct map_db *db;
	struct map_state state;
	struct image_map *map = NULL;
	struct redo_overlay *overlay = NULL;
	int rc = map_db_open(&io_fast, dir_fd, 0, &db);

	if (rc < 0)
		return rc;
	rc = map_db_read_state(db, &state);
	if (rc == 0)
		rc = map_db_read_map(db, &map);
	if (rc == 0)
		rc = map_db_read_redo(db, &overlay);
	image_map_unref(map);
	redo_overlay_free(overlay);
	map_db_close(db);
	return rc;
}

/* Does to the database what somebody with the sqlite3 command could do. */
static void edit(int dir_fd, const char *sql)
{
	char path[64];
	sqlite3 *connection;

	snprintf(path, sizeof path, "/proc/self/fd/%d/" MAP_DB_NAME, dir_fd);
	CHECK_IS(sqlite3_open(path, &connection), SQLITE_OK);
	CHECK_IS(sqlite3_exec(connection, "PRAGMA ignore_check_constraints = ON; PRAGMA synchronous = OFF", NULL, NULL,
	                      NULL),
	         0);
	CHECK_IS(sqlite3_exec(connection, sql, NULL, NULL, NULL), SQLITE_OK);
	CHECK_IS(sqlite3_close(connection), SQLITE_OK);
}

static int query_integer(int dir_fd, const char *sql)
{
	char path[64];
	sqlite3 *connection;
	sqlite3_stmt *select;

	snprintf(path, sizeof path, "/proc/self/fd/%d/" MAP_DB_NAME, dir_fd);
	CHECK_IS(sqlite3_open_v2(path, &connection, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	CHECK_IS(sqlite3_prepare_v2(connection, sql, -1, &select, NULL), SQLITE_OK);
	CHECK_IS(sqlite3_step(select), SQLITE_ROW);
	int value = sqlite3_column_int(select, 0);
	sqlite3_finalize(select);
	sqlite3_close(connection);
	return value;
}

/* The history keeps every run, but only of the last two that moved files what they did to each. */
static void check_forgetting(int dir_fd, const struct image_map *map)
{
	struct file_record file = {.volume = 1, .record = 5, .path = "/a", .attribute = "$DATA", .bytes = 4096};
	struct map_db *db;

	CHECK_IS(map_db_create(&io_fast, dir_fd, map), 0);
	CHECK_IS(map_db_open(&io_fast, dir_fd, 0, &db), 0);
	for (int i = 0; i < 5; i++) {
		struct run_record run = {.operation = i == 3 ? "undo" : "defrag"};

		CHECK_IS(map_db_begin(db), 0);
		CHECK_IS(map_db_put_run(db, &run), 0);
		for (int j = 0; j < 3 && i != 3; j++)
			CHECK_IS(map_db_put_file(db, &file), 0);
		CHECK_IS(map_db_commit(db), 0);
	}
	map_db_close(db);
	CHECK_IS(query_integer(dir_fd, "SELECT count(*) FROM run"), 5);
	CHECK_IS(query_integer(dir_fd, "SELECT count(*) FROM file WHERE run IN (3, 5)"), 6);
	CHECK_IS(query_integer(dir_fd, "SELECT count(*) FROM file"), 6);
	empty_directory(dir_fd);
}

static void check_refused(int good_fd, int dir_fd)
{
	static const struct {
		const char *sql;
		int error;
	} cases[] = {
	        {"PRAGMA application_id = 1", -EMEDIUMTYPE},
	        {"PRAGMA user_version = 3", -EMEDIUMTYPE},
	        {"PRAGMA user_version = 0", -EMEDIUMTYPE},
	        {"UPDATE extent SET host_off = (SELECT host_off FROM extent WHERE guest_off = 4096) WHERE guest_off = "
	         "0",
	         -EUCLEAN},
	        {"UPDATE extent SET length = length + 512 WHERE guest_off = 4096", -EUCLEAN},
	        {"UPDATE extent SET length = length - 512 WHERE guest_off = 4096", -EUCLEAN},
	        {"UPDATE extent SET length = -4096 WHERE guest_off = 4096", -EUCLEAN},
	        {"UPDATE extent SET length = 0 WHERE guest_off = 4096", -EUCLEAN},
	        {"UPDATE extent SET host_off = -4096 WHERE guest_off = 4096", -EUCLEAN},
	        {"UPDATE extent SET host_off = host_off + 1 WHERE guest_off = 4096", -EUCLEAN},
	        {"UPDATE extent SET host_off = 9223372036854775296 WHERE guest_off = 4096", -EUCLEAN},
	        {"UPDATE extent SET guest_off = -4096 WHERE guest_off = 0", -EUCLEAN},
	        {"DELETE FROM extent WHERE guest_off = 4096", -EUCLEAN},
	        {"DELETE FROM extent", -EUCLEAN},
	        {"UPDATE image SET size = size + 512", -EUCLEAN},
	        {"UPDATE image SET size = -1", -EUCLEAN},
	        {"UPDATE image SET generation = 0", -EUCLEAN},
	        {"DELETE FROM image", -EUCLEAN},
	        {"UPDATE redo SET entries = zeroblob(10)", -EUCLEAN},
	        {"UPDATE redo SET entries = zeroblob(100000)", -EUCLEAN},
	        {"UPDATE redo SET entries = zeroblob(2000000)", -EUCLEAN},
	        {"UPDATE redo SET entries = zeroblob(0)", -EUCLEAN},
	        {"INSERT INTO redo SELECT seq + 1, entries FROM redo", -EUCLEAN}, /* overlapping entries */
	        {"DROP TABLE undo", -EUCLEAN},
	        {"DROP TABLE settle", -EUCLEAN},
	        {"ALTER TABLE extent ADD COLUMN more INTEGER", -EUCLEAN},
	        {"ALTER TABLE extent RENAME TO kept; CREATE VIEW extent AS SELECT * FROM kept", -EUCLEAN},
	        {"DROP VIEW summary; DROP VIEW fragmentation; DROP TABLE extent;"
	         " CREATE TABLE extent(guest_off INTEGER PRIMARY KEY, length, host_off)",
	         -EUCLEAN},
	        {"PRAGMA journal_mode = WAL", -EUCLEAN},
	        /* These are the owner's business. */
	        {"CREATE INDEX by_host ON extent(host_off); ANALYZE", 0},
	        {"CREATE VIEW mine AS SELECT 1", 0},
	        {"CREATE TABLE more (x); CREATE INDEX computes ON more(x + 1) WHERE x > 0", 0},
	        {"CREATE INDEX computes ON run(length(options))", 0},
	        {"DROP VIEW worst_files", 0},
	        {"VACUUM", 0},
	};

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		check_context("%s", cases[i].sql);
		empty_directory(dir_fd);
		copy_directory(good_fd, dir_fd);
		CHECK_IS(read_all(dir_fd), 0);
		edit(dir_fd, cases[i].sql);
		CHECK_IS(read_all(dir_fd), cases[i].error);
	}
	check_context("%s", "");
}

/* Triggers of others do not run when we change something, nor does it matter what refers to it. */
static void check_others(int good_fd, int dir_fd)
{
	struct map_db *db;
	struct image_map *map, *old;

	empty_directory(dir_fd);
	copy_directory(good_fd, dir_fd);
	edit(dir_fd,
	     "DELETE FROM redo; UPDATE image SET redo_pending = 0;"
	     "CREATE TRIGGER evil AFTER UPDATE ON image BEGIN DELETE FROM extent; END;"
	     "CREATE TABLE more (x REFERENCES extent(guest_off)); INSERT INTO more SELECT guest_off FROM extent");
	CHECK_IS(map_db_open(&io_fast, dir_fd, 0, &db), 0);
	CHECK_IS(map_db_read_map(db, &old), 0);
	CHECK_IS(image_map_resize(old, 3 * EXTENT, 0, &map), 0);
	CHECK_IS(map_db_resize(&db, old, map), 0);
	CHECK_IS(map_db_resize(&db, old, map), -EUCLEAN); /* no longer what is stored */
	map_db_close(db);
	image_map_unref(old);
	CHECK_IS(read_all(dir_fd), 0);
	image_map_unref(map);
}

/* What an index of others would compute we do not. */
static void check_computing_index(int good_fd, int dir_fd)
{
	static const char *const cases[] = {
	        "CREATE INDEX computes ON run(length(options))",
	        "CREATE UNIQUE INDEX computes ON image(redo_pending) WHERE size > 0",
	        "CREATE TABLE more (x); CREATE INDEX plain ON extent(host_off); CREATE INDEX computes ON more(x + 1)",
	};

	for (int i = 0; i < 3; i++) {
		struct map_db *db;

		empty_directory(dir_fd);
		copy_directory(good_fd, dir_fd);
		edit(dir_fd, "DELETE FROM redo; UPDATE image SET redo_pending = 0");
		edit(dir_fd, cases[i]);
		CHECK_IS(map_db_open(&io_fast, dir_fd, 0, &db), 0);
		CHECK_IS(map_db_begin(db), i < 2 ? -EUCLEAN : 0);
		CHECK_IS(map_db_rollback(db), 0);
		map_db_close(db);
	}
}

/* What a version 1 was: no settle pass, and another view. */
static const char to_version_1[] = "DROP VIEW settle_history; DROP TABLE settle; DROP VIEW worst_files;"
                                   "CREATE VIEW worst_files AS SELECT path FROM file; PRAGMA user_version = 1";

/* An older database is read as it is, without being written, and upgraded by the first change. */
static void check_upgrade(int good_fd, int dir_fd)
{
	struct settle_record settle;
	struct run_record run;
	struct map_db *db;
	struct image_map *map;

	empty_directory(dir_fd);
	copy_directory(good_fd, dir_fd);
	edit(dir_fd, to_version_1);
	CHECK_IS(read_all(dir_fd), 0);
	edit(dir_fd, "DELETE FROM redo; UPDATE image SET redo_pending = 0");
	CHECK_IS(map_db_open(&io_fast, dir_fd, MAP_DB_READ_ONLY, &db), 0);
	CHECK_IS(map_db_unfinished_settle(db, &settle, &run), 0);
	CHECK_IS(settle.run, 0);
	map_db_close(db);

	CHECK_IS(map_db_open(&io_fast, dir_fd, 0, &db), 0);
	CHECK_IS(map_db_begin(db), 0);
	CHECK_IS(map_db_rollback(db), 0);
	CHECK_IS(map_db_read_map(db, &map), 0);
	edit(dir_fd, "CREATE TEMP TABLE none AS SELECT * FROM worst_files; SELECT path FROM worst_files"); /* still 1 */
	run = (struct run_record){.operation = "settle", .extents_before = 7, .started_unix_s = 99};
	settle = (struct settle_record){.plane_base = 4 << 20, .bytes_moved = 5};
	CHECK_IS(map_db_settle(&db, map, map, &run, &settle), 0);
	CHECK(settle.run > 0);
	map_db_close(db);
	edit(dir_fd, "SELECT volume FROM worst_files; SELECT * FROM settle_history");
	CHECK_IS(read_all(dir_fd), 0);

	CHECK_IS(map_db_open(&io_fast, dir_fd, MAP_DB_READ_ONLY, &db), 0);
	struct settle_record found;
	struct run_record found_run = {0};
	CHECK_IS(map_db_unfinished_settle(db, &found, &found_run), 0);
	CHECK(found.run == settle.run && found.plane_base == 4 << 20 && found.bytes_moved == 5);
	CHECK(found_run.extents_before == 7 && found_run.started_unix_s == 99);
	map_db_close(db);
	image_map_unref(map);
}

/* A row is rewritten only where maps differ, and the result is the same. */
static void check_settle(int dir_fd)
{
	struct image_map *map = shuffled_map(EXTENTS), *moved;
	struct run_record run = {.operation = "settle"};
	struct settle_record settle = {.plane_base = 16 << 20};
	struct map_db *db;
	int64_t first_run = 0;

	empty_directory(dir_fd);
	CHECK_IS(map_db_create(&io_fast, dir_fd, map), 0);
	for (uint64_t i = 0, off = 0; i < 20; i++) {
		uint64_t length = random_below(100) * EXTENT + 512 * (1 + random_below(8));
		struct extent place = {off, length, settle.plane_base + off};

		CHECK_IS(map_db_open(&io_fast, dir_fd, 0, &db), 0);
		CHECK_IS(image_map_relocate(map, &place, 1, &moved), 0);
		settle.finished = i == 19;
		CHECK_IS(map_db_settle(&db, map, moved, &run, &settle), 0);
		CHECK(first_run == 0 || settle.run == first_run);
		first_run = settle.run;
		map_db_close(db);
		check_stored(dir_fd, moved, i + 2);
		image_map_unref(map);
		map = moved;
		off += length;
	}
	CHECK_IS(map_db_open(&io_fast, dir_fd, MAP_DB_READ_ONLY, &db), 0);
	CHECK_IS(map_db_unfinished_settle(db, &settle, &run), 0);
	CHECK_IS(settle.run, 0);
	map_db_close(db);
	image_map_unref(map);
}

/* Nothing to expect of these but that they return. */
static void check_damaged(int good_fd, int dir_fd)
{
	static uint8_t bytes[4 * 1024 * 1024];
	int fd = openat(good_fd, MAP_DB_NAME, O_RDONLY);
	ssize_t size = read(fd, bytes, sizeof bytes);

	CHECK(size > 0 && (size_t)size < sizeof bytes);
	close(fd);
	empty_directory(dir_fd);
	for (ssize_t cut = 0; cut <= size - 4096; cut += 1 + (ssize_t)random_below(8192)) {
		check_context("cut to %zd", cut);
		write_file(dir_fd, MAP_DB_NAME, bytes, (size_t)cut);
		CHECK(read_all(dir_fd) < 0);
	}
	for (int i = 0; i < BIT_FLIPS; i++) {
		/* the first pages have the schema and what is not bulk */
		size_t at = random_below(random_below(2) ? (uint64_t)size : 65536), bit = random_below(8);

		check_context("bit %zu of byte %zu", bit, at);
		bytes[at] ^= (uint8_t)(1u << bit);
		write_file(dir_fd, MAP_DB_NAME, bytes, (size_t)size);
		read_all(dir_fd);
		bytes[at] ^= (uint8_t)(1u << bit);
	}
	for (int i = 0; i < 300; i++) {
		size_t at = random_below(65536);
		uint8_t kept[200];

		memcpy(kept, bytes + at, sizeof kept);
		random_bytes(bytes + at, sizeof kept);
		write_file(dir_fd, MAP_DB_NAME, bytes, (size_t)size);
		read_all(dir_fd);
		memcpy(bytes + at, kept, sizeof kept);
	}
	check_context("%s", "");
}

/* ---- a journal that names another one ---- */

static int crashed_fd;

static int crash_before_unlink(const struct io *io, int dir_fd, const char *name, int flags)
{
	copy_directory(dir_fd, crashed_fd);
	return io_fast.unlink(&io_fast, dir_fd, name, flags);
}

/* Makes of generation 1 generation 2, and keeps what a crash would leave before the journal is gone. */
static void crash_at_commit(int dir_fd, const struct image_map *first, const struct image_map *second)
{
	static struct io io;
	struct map_db *db;

	io = io_fast;
	io.unlink = crash_before_unlink;
	empty_directory(dir_fd);
	CHECK_IS(map_db_create(&io_fast, dir_fd, first), 0);
	CHECK_IS(map_db_open(&io, dir_fd, 0, &db), 0);
	change(db, second);
	map_db_close(db);
}

static void name_super_journal(int dir_fd, const char *name)
{
	uint8_t record[SUPER_JOURNAL_RECORD(100)];
	int fd = openat(dir_fd, MAP_DB_NAME "-journal", O_WRONLY | O_APPEND);
	size_t size = super_journal_record(record, name);

	CHECK(fd >= 0);
	CHECK_IS(write(fd, record, size), (ssize_t)size);
	close(fd);
}

/* What a journal says about a super-journal has nobody look for one, inside of the bundle or anywhere: whether there is
 * something of that name makes no difference. A name as long as SQLite's own are is passed over, and the old state
 * comes back. One that is shorter is a forger's: his journal is not used, as if the super-journal were gone. Only the
 * journal's own name is asked for anyway, and that one is there. */
static void check_super_journal(int dir_fd, const struct image_map *first, const struct image_map *second)
{
	static const struct {
		const char *name;
		uint64_t generation;
	} cases[] = {
	        {"/usr/bin/../bin", 1},
	        {"/usr/bin/../none", 1},
	        {"../../data-of-others", 1},
	        {"/usr/bin", 2},
	        {"/usr/none", 2},
	        {"/", 2},
	        {".", 2},
	        {"..", 2},
	        {"sub/file", 2},
	        {"data", 2},
	        {"map.db", 2},
	        {"map.db-wal", 2},
	        {"map.db-journal", 1},
	};

	crashed_fd = scratch_directory();
	crash_at_commit(dir_fd, first, second);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		check_context("a journal that names %s", cases[i].name);
		empty_directory(dir_fd);
		copy_directory(crashed_fd, dir_fd);
		CHECK_IS(mkdirat(dir_fd, "sub", 0700), 0);
		write_file(dir_fd, "sub/file", "x", 1);
		write_file(dir_fd, "data", "x", 1);
		name_super_journal(dir_fd, cases[i].name);
		CHECK_IS(read_all(dir_fd), 0);
		check_stored(dir_fd, cases[i].generation == 1 ? first : second, cases[i].generation);
	}
	check_context("%s", "");
	close(crashed_fd);
}

int main(void)
{
	random_start();
	int live_fd = scratch_directory(), good_fd = scratch_directory(), dir_fd = scratch_directory();
	struct image_map *first = shuffled_map(EXTENTS), *second = shuffled_map(EXTENTS), *empty;
	struct map_db *db;

	check_life(live_fd, first, second);
	check_copy(live_fd, dir_fd, first);
	check_forgetting(dir_fd, first);

	CHECK_IS(map_db_open(&io_fast, live_fd, 0, &db), 0); /* a good one with redo pending and undo */
	change(db, second);
	map_db_close(db);
	CHECK_IS(unlinkat(live_fd, "data", 0), 0);
	copy_directory(live_fd, good_fd);
	check_refused(good_fd, dir_fd);
	check_others(good_fd, dir_fd);
	check_computing_index(good_fd, dir_fd);
	check_upgrade(good_fd, dir_fd);
	check_settle(dir_fd);
	check_super_journal(dir_fd, first, second);
	check_damaged(good_fd, dir_fd);

	CHECK_IS(image_map_identity(0, &empty), 0);
	empty_directory(dir_fd);
	CHECK_IS(map_db_create(&io_fast, dir_fd, empty), 0);
	check_stored(dir_fd, empty, 1);
	image_map_unref(first);
	image_map_unref(second);
	image_map_unref(empty);
	return 0;
}

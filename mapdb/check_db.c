/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * check: the map database. It is looked at in a copy: a long look at the original would keep writers waiting, and a hot
 * journal can only be rolled back by writing.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "mapdb/check_internal.h"
#include "mapdb/cleanup.h"
#include "mapdb/map_db_schema.h"
#include "mapdb/vfs.h"

#define COPY_STEP     (1u << 20)
#define PROGRESS_STEP 100000 /* SQLite's virtual instructions between two looks at check->stop */
#define INTEGRITY_MAX "8"
#define COPY_TRIES    8

/* ---- the copy ---- */

/* A directory of our own with a copy of map.db, and of its journal if that is hot. */
struct copy {
	char path[256];
	int dir_fd;
	bool hot;
};

static void empty_copy(const struct copy *copy)
{
	unlinkat(copy->dir_fd, JOURNAL_NAME, 0);
	unlinkat(copy->dir_fd, MAP_DB_NAME, 0);
}

static void cleanup_copy(struct copy *copy)
{
	if (copy->dir_fd < 0)
		return;
	empty_copy(copy);
	close(copy->dir_fd);
	rmdir(copy->path);
}

static const char *place_of_copies(void)
{
	const char *place = getenv("TMPDIR");

	return place ? place : "/tmp";
}

/* Says of an error that it is the copy's, and not the image's. */
static int blame_copy(const struct check *check, int rc)
{
	char *directory = check->report->copy_directory;

	if (rc < 0 && rc != -ENOMEM && rc != -ECANCELED && rc != -EINTR)
		snprintf(directory, sizeof check->report->copy_directory, "%s", place_of_copies());
	return rc;
}

static int make_copy_directory(struct copy *copy)
{
	if (snprintf(copy->path, sizeof copy->path, "%s/zcfs-check-XXXXXX", place_of_copies()) >=
	    (int)sizeof copy->path)
		return -ENAMETOOLONG;
	if (!mkdtemp(copy->path))
		return -errno;
	copy->dir_fd = open(copy->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return copy->dir_fd < 0 ? -errno : 0;
}

/* Copies what is not a hole. */
static int copy_bytes(const struct check *check, int from, int to)
{
	cleanup_free uint8_t *bytes = malloc(COPY_STEP);
	off_t off = 0, end = lseek(from, 0, SEEK_END);
	int rc = bytes ? 0 : -ENOMEM;

	if (end < 0)
		return -errno;
	if (rc == 0)
		rc = blame_copy(check, io_posix.ftruncate(&io_posix, to, (uint64_t)end));
	while (rc == 0 && off < end) {
		off_t data = lseek(from, off, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break;
		if (data > off)
			off = data;
		ssize_t n = io_look.pread(&io_look, from, bytes, COPY_STEP, (uint64_t)off);
		if (n <= 0)
			return n < 0 ? (int)n : 0;
		rc = blame_copy(check, io_pwrite_full(&io_posix, to, bytes, (size_t)n, (uint64_t)off));
		off += n;
		if (check_stopped(check))
			return -ECANCELED;
	}
	return rc;
}

static int copy_member(const struct check *check, const struct copy *copy, const char *name)
{
	cleanup_fd int from = data_open(&io_look, check->bundle_fd, name, O_RDONLY);
	if (from < 0)
		return from;
	cleanup_fd int to = openat(copy->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return to < 0 ? blame_copy(check, -errno) : copy_bytes(check, from, to);
}

/* Errors that say that we cannot look, and nothing about the database. */
static bool cannot_look(int rc)
{
	return rc == -EBUSY || rc == -ENOMEM || rc == -EIO || rc == -EACCES || rc == -EPERM || rc == -ENOSPC ||
	       rc == -EMFILE || rc == -ENFILE || rc == -ENOLCK || rc == -EDQUOT;
}

/* The copy's file system has to be writable as well. */
static bool cannot_use_copy(int rc)
{
	return cannot_look(rc) || rc == -EROFS;
}

/* Of a member of the bundle; all zero if there is none. */
static struct stat member_state(const struct check *check, const char *name)
{
	struct stat status;

	return name_stat(check->bundle_fd, name, &status) == 0 ? status : (struct stat){0};
}

static bool same_state(const struct stat *one, const struct stat *other)
{
	return same_inode(one, other) && one->st_size == other->st_size &&
	       one->st_ctim.tv_sec == other->st_ctim.tv_sec && one->st_ctim.tv_nsec == other->st_ctim.tv_nsec;
}

static int copy_members(const struct check *check, const struct copy *copy)
{
	int rc = copy_member(check, copy, MAP_DB_NAME);

	return rc == 0 && copy->hot ? copy_member(check, copy, JOURNAL_NAME) : rc;
}

/* Under the lock that a reader has, if SQLite can read it at all. Where it cannot, there is no lock: -EAGAIN if
 * somebody has rolled back the journal meanwhile, or done anything else. */
static int try_copy(const struct check *check, struct copy *copy)
{
	struct stat db_before = member_state(check, MAP_DB_NAME), journal_before = member_state(check, JOURNAL_NAME);
	struct map_db *db = NULL;
	int rc = db_connect(&io_look, check->bundle_fd, DB_READ_ONLY, 0, &db);

	if (rc == 0)
		rc = db_execute(db, "BEGIN; SELECT count(*) FROM sqlite_schema");
	bool locked = rc == 0;
	copy->hot = rc == -EROFS;
	if (!cannot_look(rc))
		rc = copy_members(check, copy);
	map_db_close(db);
	if (locked || (rc < 0 && rc != -ENOENT))
		return rc;
	struct stat db_now = member_state(check, MAP_DB_NAME), journal_now = member_state(check, JOURNAL_NAME);
	return same_state(&db_before, &db_now) && same_state(&journal_before, &journal_now) ? rc : -EAGAIN;
}

static int make_copy(struct check *check, struct copy *copy)
{
	int rc = blame_copy(check, make_copy_directory(copy));

	if (rc < 0)
		return rc;
	rc = -EAGAIN;
	for (int i = 0; i < COPY_TRIES && rc == -EAGAIN; i++) {
		empty_copy(copy);
		rc = check_stopped(check) ? -ECANCELED : try_copy(check, copy);
	}
	if (rc == 0 && copy->hot)
		check_add(check, FINDING_JOURNAL, REPAIRABLE,
		          "a transaction was interrupted: the journal of map.db has to be rolled back");
	return rc == -EAGAIN ? -EBUSY : rc;
}

/* ---- a database that SQLite cannot read ---- */

static void explain_with_sqlite(struct check *check, const struct copy *copy)
{
	char path[sizeof copy->path + sizeof MAP_DB_NAME + 1];
	sqlite3 *connection = NULL;

	snprintf(path, sizeof path, "%s/%s", copy->path, MAP_DB_NAME);
	if (sqlite3_open_v2(path, &connection, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK) {
		db_limit_steps(connection);
		sqlite3_exec(connection, "SELECT count(*) FROM sqlite_schema", NULL, NULL, NULL);
	}
	check_add(check, FINDING_DATABASE, FAULT, "SQLite cannot read map.db: %.180s",
	          connection ? sqlite3_errmsg(connection) : "no memory");
	sqlite3_close(connection);
}

/* The header is told at https://www.sqlite.org/fileformat2.html#the_database_header */
static void explain_unreadable(struct check *check, const struct copy *copy)
{
	static const char magic[16] = "SQLite format 3";
	unsigned char header[100] = {0};
	cleanup_fd int fd = openat(copy->dir_fd, MAP_DB_NAME, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : pread(fd, header, sizeof header, 0);

	if (n == 0)
		check_add(check, FINDING_DATABASE, FAULT, "map.db is empty");
	else if (n < (ssize_t)sizeof header || memcmp(header, magic, sizeof magic) != 0)
		check_add(check, FINDING_DATABASE, FAULT, "map.db is not an SQLite database: its header is damaged");
	else if (header[18] == 2 || header[19] == 2)
		check_add(check, FINDING_DATABASE, FAULT,
		          "map.db is in WAL mode, which somebody else must have set: "
		          "sqlite3 map.db 'PRAGMA journal_mode = DELETE' takes it back");
	else
		explain_with_sqlite(check, copy);
}

/* ---- a database that SQLite can read ---- */

static int stop_sqlite(void *context)
{
	return check_stopped(context);
}

/* After SQLite has failed: says why as a finding, 0; or -errno if that only keeps us from looking. what: for the
 * message. */
static int explain_failure(struct check *check, struct map_db *db, const char *what)
{
	int rc = db_translate(db, sqlite3_extended_errcode(db->connection));

	if (cannot_use_copy(rc) || rc == -EINTR)
		return rc;
	check_add(check, FINDING_DATABASE, FAULT, "SQLite cannot read %s: %.150s", what,
	          sqlite3_errmsg(db->connection));
	return 0;
}

static int step(struct check *check, struct map_db *db, sqlite3_stmt *statement, int *rc)
{
	int result = sqlite3_step(statement), seen = -vfs_last_errno(db->vfs);

	if (result != SQLITE_ROW && result != SQLITE_DONE) { /* damage in the middle of it */
		*rc = explain_failure(check, db, "all of map.db");
		return 0;
	}
	/* An integrity check has rows for what could not be read, too. */
	*rc = cannot_look(seen) ? seen : 0;
	vfs_clear_errno(db->vfs);
	return *rc == 0 && result == SQLITE_ROW;
}

/* Calls visit for every row of a query. Damage is a finding, not an error. */
static int for_each_row(struct check *check, struct map_db *db, const char *sql,
                        void (*visit)(struct check *check, sqlite3_stmt *row))
{
	cleanup_statement sqlite3_stmt *select = NULL;
	int rc = 0;

	if (sqlite3_prepare_v2(db->connection, sql, -1, &select, NULL) != SQLITE_OK)
		return explain_failure(check, db, "map.db");
	while (step(check, db, select, &rc))
		visit(check, select);
	return rc;
}

static const char *text_of(sqlite3_stmt *row, int column)
{
	const char *text = (const char *)sqlite3_column_text(row, column);

	return text ? text : "NULL";
}

static void add_integrity(struct check *check, sqlite3_stmt *row)
{
	const char *text = text_of(row, 0);

	if (strcmp(text, "ok") != 0)
		check_add(check, FINDING_DATABASE, FAULT, "map.db is damaged: %.180s", text);
}

static void add_foreign_key(struct check *check, sqlite3_stmt *row)
{
	check_add(check, FINDING_HISTORY, FAULT, "row %.20s of table %.60s belongs to a run that is not there",
	          text_of(row, 1), text_of(row, 0));
}

struct schema_walk {
	struct check *check;
	bool tables_good;
};

static void add_schema(void *context, bool needed, const char *text)
{
	struct schema_walk *walk = context;

	check_add(walk->check, FINDING_SCHEMA, needed ? FAULT : NOTE, "%.200s", text);
	if (needed)
		walk->tables_good = false;
}

/* Says whose database it is. *ours: true if it can be looked into. */
static int check_identity(struct check *check, struct map_db *db, bool *ours)
{
	int application_id, user_version;

	*ours = false;
	if (map_db_schema_identity(db->connection, &application_id, &user_version) != SQLITE_OK)
		return explain_failure(check, db, "map.db");
	if (application_id != MAP_DB_APPLICATION_ID)
		check_add(check, FINDING_DATABASE, FAULT,
		          "map.db is another program's: its application_id is %#x, not %#x", (unsigned)application_id,
		          (unsigned)MAP_DB_APPLICATION_ID);
	else if (!map_db_schema_known(user_version))
		check_add(check, FINDING_DATABASE, FAULT,
		          "map.db has version %d of the schema; this zcfs knows versions up to %d", user_version,
		          MAP_DB_USER_VERSION);
	else
		*ours = true;
	return 0;
}

/* ---- our tables ---- */

struct blob_count {
	uint64_t blobs, entries, bytes;
	int64_t last_seq;
};

static int count_blob(struct check *check, const char *what, enum finding_kind kind, enum finding_weight weight,
                      sqlite3_stmt *row, struct blob_count *count)
{
	const uint8_t *blob = sqlite3_column_blob(row, 1);
	size_t size = (size_t)sqlite3_column_bytes(row, 1), pos = 0;
	struct redo_entry entry;

	count->blobs++;
	if (!db_key_ascends(row, 0, &count->last_seq)) {
		check_add(check, kind, weight, "the rows of table %s are not in order", what);
		return -EUCLEAN;
	}
	if (sqlite3_column_type(row, 1) != SQLITE_BLOB || !blob || size == 0 || size > REDO_BLOB_SIZE_MAX ||
	    redo_check_blob(check->data_size, blob, size) < 0) {
		check_add(check, kind, weight,
		          "row %lld of table %s is malformed or changes bytes past the data file's end",
		          (long long)sqlite3_column_int64(row, 0), what);
		return -EUCLEAN;
	}
	while (redo_next(blob, size, &pos, &entry) > 0) {
		count->entries++;
		count->bytes += entry.length;
	}
	return 0;
}

static int check_blobs(struct check *check, struct map_db *db, const char *table, enum finding_kind kind,
                       enum finding_weight weight, struct blob_count *count)
{
	cleanup_statement sqlite3_stmt *select = NULL;
	char sql[80];
	int rc;

	snprintf(sql, sizeof sql, "SELECT seq, entries FROM %s NOT INDEXED ORDER BY seq", table);
	rc = db_prepare(db, sql, &select);
	while (rc == 0 && step(check, db, select, &rc))
		rc = count_blob(check, table, kind, weight, select, count);
	return rc == -EUCLEAN ? 0 : rc;
}

static int check_redo(struct check *check, struct map_db *db, const struct map_state *state)
{
	struct redo_overlay *overlay = NULL;
	struct blob_count count = {.last_seq = INT64_MIN};
	size_t errors = check_errors(check->report, false);
	int rc = check_blobs(check, db, "redo", FINDING_REDO, FAULT, &count);

	if (rc < 0 || !state->redo_pending || check_errors(check->report, false) > errors)
		return rc;
	rc = map_db_read_redo(db, &overlay);
	redo_overlay_free(overlay);
	if (rc == -EUCLEAN)
		check_add(check, FINDING_REDO, FAULT, "the entries of table redo overlap");
	else if (rc == 0)
		check_add(check, FINDING_REDO, REPAIRABLE,
		          "a committed change has not reached the data file yet: %" PRIu64 " bytes in %" PRIu64
		          " places; the next open writes them",
		          count.bytes, count.entries);
	return rc == -EUCLEAN ? 0 : rc;
}

/* Generation and size of an undo; false if there is none. */
static int read_stamp(struct check *check, struct map_db *db, bool *recorded, uint64_t *generation, uint64_t *size)
{
	cleanup_statement sqlite3_stmt *select = NULL;
	int rc = db_prepare(db,
	                    "SELECT count(*), max(generation), max(size),"
	                    " EXISTS (SELECT 1 FROM undo_extent) OR EXISTS (SELECT 1 FROM undo) FROM undo_stamp",
	                    &select);

	*recorded = false;
	if (rc < 0 || !step(check, db, select, &rc))
		return rc;
	*recorded = sqlite3_column_int64(select, 0) > 0;
	if (!*recorded && sqlite3_column_int64(select, 3))
		check_add(check, FINDING_UNDO, REPAIRABLE,
		          "there are pieces of an undo, but nothing says what it is for");
	if (*recorded && (!db_column_u64(select, 1, generation) || !db_column_u64(select, 2, size))) {
		check_add(check, FINDING_UNDO, REPAIRABLE,
		          "the undo of the last pass makes no sense: negative numbers");
		*recorded = false;
	}
	return rc;
}

static int check_undo(struct check *check, struct map_db *db, const struct map_state *state)
{
	struct image_map *map = NULL;
	struct blob_count count = {.last_seq = INT64_MIN};
	uint64_t generation = 0, size = 0;
	size_t errors = check_errors(check->report, false);
	bool recorded, valid = true;
	int rc = read_stamp(check, db, &recorded, &generation, &size);

	if (rc < 0 || !recorded)
		return rc;
	if (generation > state->generation)
		check_add(check, FINDING_UNDO, REPAIRABLE, "the undo of the last pass is for a change not made yet");
	rc = check_extents(check, db, "undo_extent", FINDING_UNDO, size, &map);
	image_map_unref(map);
	if (rc == 0)
		rc = check_blobs(check, db, "undo", FINDING_UNDO, REPAIRABLE, &count);
	if (rc == 0 && check->data_fd >= 0)
		rc = map_db_undo_valid(db, check->data_fd, &valid);
	if (rc == 0 && !valid && !state->redo_pending && check_errors(check->report, false) == errors)
		check_add(check, FINDING_UNDO, NOTE,
		          "the last pass can no longer be undone: the image was changed since (%" PRIu64
		          " bytes are kept for it)",
		          count.bytes);
	return rc;
}

static int check_rows(struct check *check, struct map_db *db)
{
	struct map_state state;
	size_t errors = check_errors(check->report, false);
	int rc = map_db_read_state(db, &state);

	if (rc == -EUCLEAN) {
		check_add(check, FINDING_MAP, FAULT, "table image has no row, or one that makes no sense");
		return 0;
	}
	if (rc == 0)
		rc = check_extents(check, db, "extent", FINDING_MAP, state.size, &check->map);
	if (rc == 0)
		rc = check_redo(check, db, &state);
	if (rc == 0)
		rc = check_undo(check, db, &state);
	if (rc == 0 && check_errors(check->report, false) == errors && !check->map) /* never seen */
		check_add(check, FINDING_MAP, FAULT, "the image map cannot be loaded");
	check->report->map_known = check->map != NULL;
	check->report->size = state.size;
	check->report->generation = state.generation;
	check->report->extents = check->map ? image_map_count(check->map) : 0;
	return rc;
}

/* integrity_check evaluates the constraints of every table and the expressions of every index, foreign_key_check the
 * generated columns: those of others may take for ever, where nothing interrupts them. */
static int check_with_sqlite(struct check *check, struct map_db *db, bool only_ours)
{
	if (!only_ours) {
		check_add(check, FINDING_SKIPPED, NOTE,
		          "SQLite's own checks of map.db are left out, because it has tables or indexes of others");
		return 0;
	}
	int rc = for_each_row(check, db, "PRAGMA integrity_check(" INTEGRITY_MAX ")", add_integrity);
	return rc == 0 ? for_each_row(check, db, "PRAGMA foreign_key_check", add_foreign_key) : rc;
}

static int check_readable(struct check *check, struct map_db *db)
{
	struct schema_walk walk = {.check = check, .tables_good = true};
	bool ours, only_ours;

	sqlite3_progress_handler(db->connection, PROGRESS_STEP, stop_sqlite, check);
	int rc = check_identity(check, db, &ours);
	if (rc < 0 || !ours)
		return rc;
	if (map_db_schema_compare(db->connection, add_schema, &walk, &only_ours) != SQLITE_OK)
		return explain_failure(check, db, "the schema of map.db");
	if (!walk.tables_good)
		return 0;
	rc = check_with_sqlite(check, db, only_ours);
	return rc == 0 ? check_rows(check, db) : rc;
}

int check_database(struct check *check)
{
	__attribute__((cleanup(cleanup_copy))) struct copy copy = {.dir_fd = -1};
	struct map_db *db = NULL;
	struct stat status;
	int rc = make_copy(check, &copy);

	if (rc < 0)
		return rc;
	/* An empty file would pass for a database without tables. */
	bool empty = name_stat(copy.dir_fd, MAP_DB_NAME, &status) == 0 && status.st_size == 0;
	rc = empty ? -EUCLEAN : db_connect(&io_posix, copy.dir_fd, DB_READ_WRITE, 0, &db);
	if (rc == 0)
		rc = check_readable(check, db);
	else if (!cannot_use_copy(rc)) {
		explain_unreadable(check, &copy);
		rc = 0;
	}
	map_db_close(db);
	return blame_copy(check, rc);
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map_db: opening, the state, and transactions. The schema is in map_db_schema.c, the rows of maps are in
 * map_db_rows.c, redo and undo in map_db_redo.c, the history in map_db_history.c.
 */
#include "mapdb/map_db.h"

#include <errno.h>
#include <fcntl.h>

#include "mapdb/cleanup.h"
#include "mapdb/map_db_internal.h"
#include "mapdb/map_db_schema.h"
#include "mapdb/vfs.h"

#define BUSY_TIMEOUT_MS         2000
#define PAGE_CACHE_KIB_READING  1024
#define PAGE_CACHE_KIB_CHANGING (64 * 1024) /* a change of a million extents is written without spilling */
#define ROW_SIZE_MAX            (1024 * 1024)
#define SCHEMA_STEPS_MAX        100000 /* SQLite's virtual instructions; a schema of ours takes hundreds */

int db_translate(struct map_db *db, int result)
{
	int seen = vfs_last_errno(db->vfs);

	vfs_clear_errno(db->vfs);
	switch (result & 0xff) {
	case SQLITE_OK:
	case SQLITE_ROW:
	case SQLITE_DONE:
		return 0;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EBUSY;
	case SQLITE_FULL:
		return seen ? -seen : -ENOSPC;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_INTERRUPT:
		return -EINTR;
	case SQLITE_IOERR:
		if (result == SQLITE_IOERR_NOMEM)
			return -ENOMEM;
		return seen ? -seen : -EIO;
	case SQLITE_CANTOPEN:
		return seen ? -seen : -EUCLEAN;
	default: /* CORRUPT, NOTADB, and whatever our own statements can only meet in somebody else's tables */
		return -EUCLEAN;
	}
}

int db_execute(struct map_db *db, const char *sql)
{
	return db_translate(db, sqlite3_exec(db->connection, sql, NULL, NULL, NULL));
}

int db_prepare(struct map_db *db, const char *sql, sqlite3_stmt **statement)
{
	return db_translate(db, sqlite3_prepare_v2(db->connection, sql, -1, statement, NULL));
}

int db_run_statement(struct map_db *db, sqlite3_stmt *statement)
{
	int result = sqlite3_step(statement);

	sqlite3_reset(statement);
	return db_translate(db, result);
}

static void set_page_cache(struct map_db *db, int kib)
{
	char sql[48];

	sqlite3_snprintf(sizeof sql, sql, "PRAGMA cache_size = -%d", kib);
	sqlite3_exec(db->connection, sql, NULL, NULL, NULL); /* only an optimisation */
}

static int give_up(void *unused)
{
	return 1;
}

void db_limit_steps(sqlite3 *connection)
{
	sqlite3_progress_handler(connection, SCHEMA_STEPS_MAX, give_up, NULL);
}

/* The first statements read the schema. Debian's SQLite overwrites what is deleted, unless told otherwise: of redo that
 * has been applied the journal would be as long, for which the commit before has not kept the room. */
static int read_schema(struct map_db *db)
{
	db_limit_steps(db->connection);
	set_page_cache(db, PAGE_CACHE_KIB_READING);
	int rc = db_execute(db, "PRAGMA temp_store = MEMORY; PRAGMA cell_size_check = ON; PRAGMA synchronous = EXTRA; "
	                        "PRAGMA secure_delete = OFF");
	if (rc == 0) /* else closing tries again */
		sqlite3_progress_handler(db->connection, 0, NULL, NULL);
	return rc == -EINTR ? -EUCLEAN : rc;
}

/* What a database that is not ours could try with us. (Others' tables may refer to ours, and then each change of ours
 * would have to look through theirs.) */
static int configure(struct map_db *db, int flags)
{
	static const struct {
		int option, on;
	} options[] = {
	        {SQLITE_DBCONFIG_DEFENSIVE, 1},      {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
	        {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0}, {SQLITE_DBCONFIG_ENABLE_VIEW, 0},
	        {SQLITE_DBCONFIG_ENABLE_FKEY, 0},    {SQLITE_DBCONFIG_DQS_DML, 0},
	        {SQLITE_DBCONFIG_DQS_DDL, 0},
	};

	for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
		sqlite3_db_config(db->connection, options[i].option, options[i].on, NULL);
	sqlite3_limit(db->connection, SQLITE_LIMIT_LENGTH, ROW_SIZE_MAX);
	sqlite3_limit(db->connection, SQLITE_LIMIT_ATTACHED, 0);
	sqlite3_limit(db->connection, SQLITE_LIMIT_TRIGGER_DEPTH, 1);
	sqlite3_limit(db->connection, SQLITE_LIMIT_COLUMN, 100);
	sqlite3_busy_timeout(db->connection, flags & MAP_DB_NO_WAIT ? 0 : BUSY_TIMEOUT_MS);
	return read_schema(db);
}

int db_connect(const struct io *io, int bundle_fd, enum db_open_mode mode, int flags, struct map_db **out)
{
	static const int sqlite_flags[] = {
	        [DB_READ_ONLY] = SQLITE_OPEN_READONLY,
	        [DB_READ_WRITE] = SQLITE_OPEN_READWRITE,
	        [DB_CREATE] = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
	};
	struct map_db *db = calloc(1, sizeof *db);

	if (!db)
		return -ENOMEM;
	*db = (struct map_db){.io = io, .read_only = mode == DB_READ_ONLY};
	db->bundle_fd = fcntl(bundle_fd, F_DUPFD_CLOEXEC, 0);
	int rc = db->bundle_fd < 0 ? -errno : vfs_new(io, db->bundle_fd, mode == DB_CREATE, &db->vfs);
	if (rc == 0)
		rc = db_translate(db, sqlite3_open_v2(MAP_DB_NAME, &db->connection,
		                                      sqlite_flags[mode] | SQLITE_OPEN_NOMUTEX, vfs_name(db->vfs)));
	if (rc == 0) {
		sqlite3_extended_result_codes(db->connection, 1);
		rc = configure(db, flags);
	}
	if (rc < 0) {
		map_db_close(db);
		return rc;
	}
	*out = db;
	return 0;
}

/* The first look, which rolls back a hot journal. */
static int check_schema(struct map_db *db)
{
	int result = map_db_schema_check(db->connection);

	return result == SQLITE_MISMATCH ? -EMEDIUMTYPE : db_translate(db, result);
}

static int open_checked(const struct io *io, int bundle_fd, enum db_open_mode mode, int flags, struct map_db **out)
{
	struct map_db *db = NULL;
	int rc = db_connect(io, bundle_fd, mode, flags, &db);

	if (rc < 0)
		return rc;
	rc = check_schema(db);
	if (rc < 0) {
		map_db_close(db);
		return rc;
	}
	*out = db;
	return 0;
}

int map_db_open(const struct io *io, int bundle_fd, int flags, struct map_db **out)
{
	struct map_db *writer = NULL;

	if (!(flags & MAP_DB_READ_ONLY))
		return open_checked(io, bundle_fd, DB_READ_WRITE, flags, out);

	int rc = open_checked(io, bundle_fd, DB_READ_ONLY, flags, out);
	if (rc != -EROFS)
		return rc;
	/* A hot journal, which only a writer rolls back. */
	rc = open_checked(io, bundle_fd, DB_READ_WRITE, flags, &writer);
	if (rc < 0)
		return rc == -EACCES || rc == -EPERM ? -EROFS : rc;
	map_db_close(writer);
	return open_checked(io, bundle_fd, DB_READ_ONLY, flags, out);
}

static void end_transaction(struct map_db *db)
{
	sqlite3_finalize(db->put_redo);
	sqlite3_finalize(db->put_undo);
	sqlite3_finalize(db->put_file);
	db->put_redo = db->put_undo = db->put_file = NULL;
	db->changing = false;
	db->run_id = 0;
	set_page_cache(db, PAGE_CACHE_KIB_READING);
}

void map_db_close(struct map_db *db)
{
	if (!db)
		return;
	if (db->connection) {
		end_transaction(db);
		sqlite3_close(db->connection);
	}
	vfs_free(db->vfs);
	if (db->bundle_fd >= 0)
		close(db->bundle_fd);
	free(db);
}

int db_execute_with(struct map_db *db, const char *sql, uint64_t value)
{
	cleanup_statement sqlite3_stmt *statement = NULL;
	int rc = db_prepare(db, sql, &statement);

	if (rc < 0)
		return rc;
	sqlite3_bind_int64(statement, 1, (sqlite3_int64)value);
	return db_run_statement(db, statement);
}

int db_begin_write(struct map_db *db)
{
	int rc = db_execute(db, "BEGIN IMMEDIATE");

	if (rc < 0)
		return rc;
	rc = db_translate(db, map_db_schema_check_writable(db->connection));
	if (rc < 0)
		map_db_rollback(db);
	return rc;
}

static int fill_new_database(struct map_db *db, const struct image_map *map)
{
	int rc = db_execute(db, "BEGIN EXCLUSIVE");

	if (rc == 0)
		rc = db_translate(db, map_db_schema_create(db->connection));
	if (rc == 0)
		rc = db_execute_with(db, "INSERT INTO image(id, size, generation, redo_pending) VALUES (1, ?1, 1, 0)",
		                     image_map_size(map));
	if (rc == 0)
		rc = db_insert_extents(db, map);
	if (rc == 0)
		rc = db_execute(db, "COMMIT");
	return rc;
}

int map_db_create(const struct io *io, int bundle_fd, const struct image_map *map)
{
	struct map_db *db = NULL;
	int rc = db_connect(io, bundle_fd, DB_CREATE, 0, &db);

	if (rc < 0)
		return rc;
	rc = fill_new_database(db, map);
	map_db_close(db);
	if (rc < 0)
		io->unlink(io, bundle_fd, MAP_DB_NAME, 0);
	return rc;
}

bool db_column_u64(sqlite3_stmt *statement, int column, uint64_t *value)
{
	/* Taken out of the row once: of a million rows that is felt. No other thread uses the connection. */
	sqlite3_value *field = sqlite3_column_value(statement, column);
	sqlite3_int64 number = sqlite3_value_int64(field);

	*value = (uint64_t)number;
	return number >= 0 && sqlite3_value_type(field) == SQLITE_INTEGER;
}

bool db_key_ascends(sqlite3_stmt *statement, int column, int64_t *last)
{
	int64_t key = sqlite3_column_int64(statement, column);
	bool ascends = key > *last;

	*last = key;
	return ascends;
}

int db_step_row(struct map_db *db, sqlite3_stmt *statement)
{
	int result = sqlite3_step(statement);

	if (result == SQLITE_ROW)
		return 0;
	return result == SQLITE_DONE ? -EUCLEAN : db_translate(db, result);
}

int map_db_snapshot_begin(struct map_db *db)
{
	return db_execute(db, "BEGIN DEFERRED; SELECT 1 FROM image");
}

int map_db_snapshot_end(struct map_db *db)
{
	/* SQLite has rolled back by itself after some errors. */
	return sqlite3_get_autocommit(db->connection) ? 0 : db_execute(db, "ROLLBACK");
}

int map_db_read_state(struct map_db *db, struct map_state *state)
{
	cleanup_statement sqlite3_stmt *select = NULL;
	uint64_t pending, undo;
	int rc = db_prepare(db,
	                    "SELECT size, generation, redo_pending OR EXISTS (SELECT 1 FROM redo), "
	                    "EXISTS (SELECT 1 FROM undo_stamp) FROM image WHERE id = 1",
	                    &select);

	if (rc == 0)
		rc = db_step_row(db, select);
	if (rc < 0)
		return rc;
	*state = (struct map_state){0};
	if (!db_column_u64(select, 0, &state->size) || !db_column_u64(select, 1, &state->generation) ||
	    !db_column_u64(select, 2, &pending) || !db_column_u64(select, 3, &undo) || state->generation == 0)
		return -EUCLEAN;
	state->redo_pending = pending;
	state->undo_recorded = undo;
	return 0;
}

int map_db_look_alone(struct map_db *db)
{
	return db_execute(db, "BEGIN EXCLUSIVE; ROLLBACK"); /* nothing is written */
}

int map_db_begin(struct map_db *db)
{
	struct map_state state;

	if (db->read_only)
		return -EROFS;
	int rc = db_begin_write(db);
	if (rc < 0)
		return rc;
	set_page_cache(db, PAGE_CACHE_KIB_CHANGING);
	rc = map_db_read_state(db, &state);
	if (rc == 0 && state.redo_pending)
		rc = -EINPROGRESS;
	if (rc == 0)
		rc = db_translate(db, map_db_schema_upgrade(db->connection));
	if (rc < 0)
		map_db_rollback(db);
	return rc;
}

int map_db_rollback(struct map_db *db)
{
	end_transaction(db);
	return map_db_snapshot_end(db);
}

int db_drop_undo_rows(struct map_db *db)
{
	return db_execute(db, "DELETE FROM undo_stamp; DELETE FROM undo_extent; DELETE FROM undo");
}

/* Before the first change of a transaction: what is there becomes the undo. */
static int keep_undo(struct map_db *db)
{
	if (db->changing)
		return 0;
	int rc = db_drop_undo_rows(db);
	if (rc == 0)
		rc = db_execute(db,
		                "INSERT INTO undo_extent SELECT * FROM extent;"
		                "UPDATE image SET generation = generation + 1, redo_pending = 1;"
		                "INSERT INTO undo_stamp(id, generation, size) SELECT 1, generation, size FROM image");
	db->changing = rc == 0;
	return rc;
}

int map_db_put_map(struct map_db *db, const struct image_map *map)
{
	struct map_state state;
	int rc = map_db_read_state(db, &state);

	if (rc == 0 && image_map_size(map) != state.size)
		rc = -EINVAL;
	if (rc == 0)
		rc = keep_undo(db);
	if (rc == 0)
		rc = db_execute(db, "DELETE FROM extent");
	return rc == 0 ? db_insert_extents(db, map) : rc;
}

static int put_blob(struct map_db *db, sqlite3_stmt **insert, const char *sql, const struct redo_blob *blob)
{
	if (blob->size == 0)
		return 0;
	if (redo_check_blob(IMAGE_MAP_OFF_MAX, blob->data, blob->size) < 0)
		return -EINVAL;
	int rc = *insert ? 0 : db_prepare(db, sql, insert);
	if (rc < 0)
		return rc;
	sqlite3_bind_blob(*insert, 1, blob->data, (int)blob->size, SQLITE_STATIC);
	rc = db_run_statement(db, *insert);
	sqlite3_clear_bindings(*insert);
	return rc;
}

int map_db_put_redo(struct map_db *db, const struct redo_blob *redo, const struct redo_blob *undo)
{
	int rc = keep_undo(db);

	if (rc == 0)
		rc = put_blob(db, &db->put_redo, "INSERT INTO redo(entries) VALUES (?1)", redo);
	if (rc == 0)
		rc = put_blob(db, &db->put_undo, "INSERT INTO undo(entries) VALUES (?1)", undo);
	return rc;
}

int map_db_commit(struct map_db *db)
{
	if (db->run_id) {
		int rc = db_execute_with(db, "UPDATE undo_stamp SET run = ?1", (uint64_t)db->run_id);
		if (rc < 0)
			return rc;
	}
	int rc = db_execute(db, "COMMIT");
	if (rc == 0)
		end_transaction(db);
	return rc;
}

int map_db_end(struct map_db *db, int rc)
{
	if (rc == 0)
		rc = map_db_commit(db);
	if (rc < 0)
		map_db_rollback(db);
	return rc;
}

int map_db_drop_undo(struct map_db *db)
{
	struct map_state state;
	int rc = map_db_read_state(db, &state);

	if (rc < 0 || !state.undo_recorded)
		return rc;
	rc = map_db_begin(db);
	return rc < 0 ? rc : map_db_end(db, db_drop_undo_rows(db));
}

static int copy_all_pages(struct map_db *db, sqlite3 *to)
{
	int result = sqlite3_exec(to, "PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF", NULL, NULL, NULL);

	if (result != SQLITE_OK)
		return result;
	sqlite3_backup *backup = sqlite3_backup_init(to, "main", db->connection, "main");
	if (!backup)
		return sqlite3_errcode(to);
	result = sqlite3_backup_step(backup, -1);
	int finished = sqlite3_backup_finish(backup);
	return result == SQLITE_DONE ? finished : result;
}

int map_db_copy(struct map_db *db, const struct io *io, int copy_fd)
{
	struct vfs *vfs;
	sqlite3 *to = NULL;
	int rc = vfs_new_for_file(io, copy_fd, &vfs);

	if (rc < 0)
		return rc;
	int result = sqlite3_open_v2(MAP_DB_NAME, &to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
	                             vfs_name(vfs));
	if (result == SQLITE_OK)
		result = copy_all_pages(db, to);
	sqlite3_close(to);
	/* What is missing where it is copied to may only be the consequence. */
	bool own = vfs_last_errno(db->vfs) != 0;
	rc = vfs_last_errno(vfs) && !own ? -vfs_last_errno(vfs) : db_translate(db, result);
	vfs_free(vfs);
	return result == SQLITE_OK ? 0 : rc;
}

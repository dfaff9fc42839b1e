/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the parts of map_db (map_db*.c) share with each other, and with check, which looks into databases that may be damaged.
 */
#ifndef ZCFS_MAP_DB_INTERNAL_H
#define ZCFS_MAP_DB_INTERNAL_H

#include <sqlite3.h>

#include "mapdb/map_db.h"

struct map_db {
	const struct io *io;
	struct vfs *vfs;
	sqlite3 *connection;
	int bundle_fd; /* own descriptor */
	bool read_only;
	/* of the transaction under way */
	bool changing;  /* the old state has been kept as undo */
	int64_t run_id; /* 0: no run row yet */
	sqlite3_stmt *put_redo, *put_undo, *put_file;
};

static inline void cleanup_finalize(sqlite3_stmt **statement)
{
	sqlite3_finalize(*statement);
}
#define cleanup_statement __attribute__((cleanup(cleanup_finalize)))

enum db_open_mode { DB_READ_ONLY, DB_READ_WRITE, DB_CREATE };

/* Everything of map_db_open but the first look at the file. */
int db_connect(const struct io *io, int bundle_fd, enum db_open_mode mode, int flags, struct map_db **out);

/* For reading a schema, which in a forged tree whose pages lead to one another has no end: a statement that takes much
 * longer than that of any honest one ends with SQLITE_INTERRUPT. */
void db_limit_steps(sqlite3 *connection);

/* SQLite's result as -errno, with the help of what the VFS has seen. */
int db_translate(struct map_db *db, int result);
int db_execute(struct map_db *db, const char *sql);
/* Begins a transaction that changes the database, with the write lock. -EUCLEAN: it has an index that would compute something, for as
 * long as whoever made it wants. */
int db_begin_write(struct map_db *db);
int db_prepare(struct map_db *db, const char *sql, sqlite3_stmt **statement);
/* Runs a statement that returns no row, and makes it ready for the next time. */
int db_run_statement(struct map_db *db, sqlite3_stmt *statement);
/* Steps a statement that must return a row. -EUCLEAN if it does not. */
int db_step_row(struct map_db *db, sqlite3_stmt *statement);
/* Runs one statement with one integer bound. */
int db_execute_with(struct map_db *db, const char *sql, uint64_t value);
/* A column as an offset or count: false if it is not an integer, or negative. */
bool db_column_u64(sqlite3_stmt *statement, int column, uint64_t *value);
/* A column that is the key by which the rows are ordered: false if it is not above *last, which starts as INT64_MIN and
 * becomes it. In a forged tree several pages may lead to one, and a walk over its rows may have no end. */
bool db_key_ascends(sqlite3_stmt *statement, int column, int64_t *last);
int db_drop_undo_rows(struct map_db *db);

/* map_db_commit.c: COMMIT, and what became of it, should it fail: 0: done and durable; -EINPROGRESS: that cannot be found out, and *db is closed and
 * NULL; otherwise nothing is changed, and *db may have been opened again. new_generation: the transaction has incremented it, by which
 * it is told; without it one that was made all the same may be reported as failed. */
int db_commit_known(struct map_db **db, bool new_generation);

/* map_db_rows.c: fills an empty table */
int db_insert_extents(struct map_db *db, const struct image_map *map);
/* Within a transaction: map takes the place of old, which must be the one stored. Rewrites only rows that differ; no undo, a new
 * generation. -EUCLEAN if it meets rows that are not old's. */
int db_replace_map(struct map_db *db, const struct image_map *old, const struct image_map *map);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map_db: the history of runs, and of what the last of them did to each file.
 */
#include <errno.h>

#include "mapdb/map_db_internal.h"

#define RUN_COLUMNS                                                                                                    \
	"operation, options, started_unix_s, duration_ms, volumes, files_moved, fragments_before, fragments_after,"    \
	" extents_before, extents_after, metadata_bytes"
#define RUN_VALUES "?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11"

/* Binds a counter; more than a signed integer holds is not a count of anything. */
static void bind_u64(sqlite3_stmt *statement, int parameter, uint64_t value)
{
	sqlite3_bind_int64(statement, parameter, value > INT64_MAX ? INT64_MAX : (sqlite3_int64)value);
}

static void bind_text(sqlite3_stmt *statement, int parameter, const char *text)
{
	sqlite3_bind_text(statement, parameter, text ? text : "", -1, SQLITE_STATIC);
}

static int write_run(struct map_db *db, const char *sql, const struct run_record *run)
{
	cleanup_statement sqlite3_stmt *statement = NULL;
	int rc = db_prepare(db, sql, &statement);

	if (rc < 0)
		return rc;
	bind_text(statement, 1, run->operation);
	bind_text(statement, 2, run->options);
	sqlite3_bind_int64(statement, 3, run->started_unix_s);
	sqlite3_bind_int64(statement, 4, run->duration_ms);
	bind_u64(statement, 5, run->volumes);
	bind_u64(statement, 6, run->files_moved);
	bind_u64(statement, 7, run->fragments_before);
	bind_u64(statement, 8, run->fragments_after);
	bind_u64(statement, 9, run->extents_before);
	bind_u64(statement, 10, run->extents_after);
	bind_u64(statement, 11, run->metadata_bytes);
	sqlite3_bind_int64(statement, 12, db->run_id);
	return db_run_statement(db, statement);
}

int map_db_put_run(struct map_db *db, const struct run_record *run)
{
	db->run_id = 0;
	int rc = write_run(db, "INSERT INTO run(" RUN_COLUMNS ", id) VALUES (" RUN_VALUES ", nullif(?12, 0))", run);
	if (rc == 0)
		db->run_id = sqlite3_last_insert_rowid(db->connection);
	return rc;
}

int map_db_update_run(struct map_db *db, const struct run_record *run)
{
	if (db->run_id == 0)
		return -EINVAL;
	return write_run(db, "UPDATE run SET (" RUN_COLUMNS ") = (" RUN_VALUES ") WHERE id = ?12", run);
}

/* Only the last two runs that moved files keep what they did to each: there may be a million. */
static int forget_old_files(struct map_db *db)
{
	return db_execute(db, "DELETE FROM file WHERE run < (SELECT max(run) FROM file)");
}

int map_db_put_file(struct map_db *db, const struct file_record *file)
{
	int rc = 0;

	if (db->run_id == 0)
		return -EINVAL;
	if (!db->put_file)
		rc = forget_old_files(db);
	if (rc == 0 && !db->put_file)
		rc = db_prepare(db,
		                "INSERT INTO file(run, volume, record, path, attribute, bytes, fragments_before,"
		                " fragments_after) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
		                &db->put_file);
	if (rc < 0)
		return rc;
	sqlite3_bind_int64(db->put_file, 1, db->run_id);
	bind_u64(db->put_file, 2, file->volume);
	bind_u64(db->put_file, 3, file->record);
	bind_text(db->put_file, 4, file->path);
	bind_text(db->put_file, 5, file->attribute);
	bind_u64(db->put_file, 6, file->bytes);
	bind_u64(db->put_file, 7, file->fragments_before);
	bind_u64(db->put_file, 8, file->fragments_after);
	rc = db_run_statement(db, db->put_file);
	sqlite3_clear_bindings(db->put_file);
	return rc;
}

static int tell_run(sqlite3_stmt *select, map_db_run_visit visit, void *context)
{
	struct run_record run = {
	        .operation = (const char *)sqlite3_column_text(select, 0),
	        .options = (const char *)sqlite3_column_text(select, 1),
	        .started_unix_s = sqlite3_column_int64(select, 2),
	        .duration_ms = sqlite3_column_int64(select, 3),
	};
	uint64_t *const counts[] = {&run.volumes,         &run.files_moved,    &run.fragments_before,
	                            &run.fragments_after, &run.extents_before, &run.extents_after,
	                            &run.metadata_bytes};
	for (int i = 0; i < (int)(sizeof(counts) / sizeof(counts[0])); i++)
		if (!db_column_u64(select, 4 + i, counts[i]))
			return -EUCLEAN;
	return run.operation && run.options ? visit(context, &run) : -EUCLEAN;
}

int map_db_read_runs(struct map_db *db, unsigned int count, map_db_run_visit visit, void *context)
{
	cleanup_statement sqlite3_stmt *select = NULL;
	int result = SQLITE_ROW,
	    rc = db_prepare(db, "SELECT " RUN_COLUMNS " FROM run ORDER BY id DESC LIMIT ?1", &select);

	if (rc < 0)
		return rc;
	sqlite3_bind_int64(select, 1, count);
	while (rc == 0 && (result = sqlite3_step(select)) == SQLITE_ROW)
		rc = tell_run(select, visit, context);
	return rc < 0 || result == SQLITE_DONE ? rc : db_translate(db, result);
}

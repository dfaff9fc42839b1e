/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map_db: the portions of a settle pass.
 */
#include <errno.h>
#include <string.h>

#include "mapdb/map_db_internal.h"

static int put_settle(struct map_db *db, const struct settle_record *settle)
{
	cleanup_statement sqlite3_stmt *statement = NULL;
	int rc = db_prepare(db,
	                    "INSERT INTO settle(run, plane_base, bytes_moved, finished) VALUES (?1, ?2, ?3, ?4)"
	                    " ON CONFLICT (run) DO UPDATE SET plane_base = ?2, bytes_moved = ?3, finished = ?4",
	                    &statement);

	if (rc < 0)
		return rc;
	sqlite3_bind_int64(statement, 1, db->run_id);
	sqlite3_bind_int64(statement, 2, (sqlite3_int64)settle->plane_base);
	sqlite3_bind_int64(statement, 3, (sqlite3_int64)settle->bytes_moved);
	sqlite3_bind_int64(statement, 4, settle->finished);
	return db_run_statement(db, statement);
}

/* Everything but the commit. */
static int put_all(struct map_db *db, const struct image_map *old, const struct image_map *map,
                   const struct run_record *run, struct settle_record *settle)
{
	struct map_state state;
	int rc = map_db_read_state(db, &state);

	if (rc == 0 && image_map_size(old) != state.size)
		rc = -EUCLEAN;
	if (rc == 0 && old != map)
		rc = db_replace_map(db, old, map);
	if (rc == 0) {
		db->run_id = settle->run;
		rc = settle->run ? map_db_update_run(db, run) : map_db_put_run(db, run);
	}
	if (rc == 0)
		rc = put_settle(db, settle);
	settle->run = rc == 0 ? db->run_id : settle->run;
	return rc;
}

int map_db_settle(struct map_db **db, const struct image_map *old, const struct image_map *map,
                  const struct run_record *run, struct settle_record *settle)
{
	struct settle_record before = *settle;
	int rc = map_db_begin(*db);

	if (rc < 0)
		return rc;
	rc = put_all(*db, old, map, run, settle);
	if (rc < 0)
		map_db_rollback(*db);
	else
		rc = db_commit_known(db, old != map);
	if (rc < 0 && rc != -EINPROGRESS)
		*settle = before;
	return rc;
}

/* A discard in between leaves the map as it is. */
static const char unfinished_sql[] =
        "SELECT settle.run, plane_base, bytes_moved, started_unix_s, duration_ms, extents_before"
        " FROM settle JOIN run ON run.id = settle.run"
        " WHERE finished = 0 AND settle.run = (SELECT max(id) FROM run WHERE operation <> 'discard')";

int map_db_unfinished_settle(struct map_db *db, struct settle_record *settle, struct run_record *run)
{
	cleanup_statement sqlite3_stmt *exists = NULL, *select = NULL;
	uint64_t id, duration_ms;

	*settle = (struct settle_record){0};
	int rc = db_prepare(db, "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'settle'", &exists);
	if (rc < 0)
		return rc;
	int result = sqlite3_step(exists); /* version 1 has none */
	if (result != SQLITE_ROW)
		return db_translate(db, result);
	rc = db_prepare(db, unfinished_sql, &select);
	if (rc < 0)
		return rc;
	result = sqlite3_step(select);
	if (result != SQLITE_ROW)
		return db_translate(db, result);
	if (!db_column_u64(select, 0, &id) || !db_column_u64(select, 1, &settle->plane_base) ||
	    !db_column_u64(select, 2, &settle->bytes_moved) || !db_column_u64(select, 4, &duration_ms) ||
	    !db_column_u64(select, 5, &run->extents_before))
		return -EUCLEAN;
	if (settle->bytes_moved > INT64_MAX / 2 || duration_ms > INT64_MAX / 2) /* these are going to be added to */
		return -EUCLEAN;
	settle->run = (int64_t)id;
	run->started_unix_s = sqlite3_column_int64(select, 3);
	run->duration_ms = (int64_t)duration_ms;
	return 0;
}

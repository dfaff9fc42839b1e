/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map_db: the history of runs, read.
 */
#include <errno.h>

#include "mapdb/map_db_internal.h"

static const char runs_sql[] = "SELECT operation, options, started_unix_s, duration_ms, volumes, files_moved,"
                               " fragments_before, fragments_after, extents_before, extents_after, metadata_bytes"
                               " FROM run ORDER BY id DESC LIMIT ?1";

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
	int result = SQLITE_ROW, rc = db_prepare(db, runs_sql, &select);

	if (rc < 0)
		return rc;
	sqlite3_bind_int64(select, 1, count);
	while (rc == 0 && (result = sqlite3_step(select)) == SQLITE_ROW)
		rc = tell_run(select, visit, context);
	return rc < 0 || result == SQLITE_DONE ? rc : db_translate(db, result);
}

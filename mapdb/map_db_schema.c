/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The schema of map.db. All offsets and lengths are bytes. Version 2.
 *
 * Version 1 lacked what is marked so below. A version only ever adds tables and views, so that an upgrade is to create
 * what is missing.
 */
#include "mapdb/map_db_schema.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The CHECK constraints say what a row must be; what the rows must be together (no gap, no shared host byte) is checked
 * when they are loaded. extent and undo_extent are equal to the letter, so that SQLite copies one to the other
 * page-wise. */
#define EXTENT_COLUMNS                                                                                                 \
	"(\n"                                                                                                          \
	"  guest_off INTEGER PRIMARY KEY CHECK (guest_off >= 0 AND guest_off % 512 = 0),\n"                            \
	"  length INTEGER NOT NULL CHECK (length > 0),\n"                                                              \
	"  host_off INTEGER NOT NULL CHECK (host_off >= 0 AND host_off % 512 = 0)\n"                                   \
	") STRICT"

#define BLOB_COLUMNS                                                                                                   \
	"(\n"                                                                                                          \
	"  seq INTEGER PRIMARY KEY,\n"                                                                                 \
	"  entries BLOB NOT NULL CHECK (length(entries) BETWEEN 1 AND 65536)\n"                                        \
	") STRICT"

static const struct table {
	const char *name;
	const char *sql;
	int since; /* version; 0: the first */
} tables[] = {
        /* One row. generation counts the changes of the map. redo_pending is 1 from the commit of a change until its
         * redo has reached the data file, also for a change whose redo is empty: while it is 1 nobody may write the
         * image. */
        {"image", "CREATE TABLE image(\n"
                  "  id INTEGER PRIMARY KEY CHECK (id = 1),\n"
                  "  size INTEGER NOT NULL CHECK (size >= 0),\n"
                  "  generation INTEGER NOT NULL CHECK (generation >= 1),\n"
                  "  redo_pending INTEGER NOT NULL CHECK (redo_pending IN (0, 1))\n"
                  ") STRICT"},
        /* The image map: the guest's [guest_off, guest_off + length) is the data file's [host_off, host_off + length).
         */
        {"extent", "CREATE TABLE extent" EXTENT_COLUMNS},
        /* Bytes of the data file that the last change replaces, in the form of mapdb/redo.h, in the order of seq. */
        {"redo", "CREATE TABLE redo" BLOB_COLUMNS},
        /* The map before the last change. */
        {"undo_extent", "CREATE TABLE undo_extent" EXTENT_COLUMNS},
        /* The bytes that redo replaced, in the form of mapdb/redo.h. */
        {"undo", "CREATE TABLE undo" BLOB_COLUMNS},
        /* At most one row: what undo goes back to, and what must not have changed since. generation: after the change.
         * size: the image's before it. data_size, ctime_ns: the data file's when redo had been applied, NULL until
         * then. */
        {"undo_stamp", "CREATE TABLE undo_stamp(\n"
                       "  id INTEGER PRIMARY KEY CHECK (id = 1),\n"
                       "  generation INTEGER NOT NULL,\n"
                       "  size INTEGER NOT NULL CHECK (size >= 0),\n"
                       "  run INTEGER REFERENCES run(id),\n"
                       "  data_size INTEGER,\n"
                       "  ctime_ns INTEGER\n"
                       ") STRICT"},
        /* The history: one row for each pass. fragments_*: pieces of all non-resident attributes. extents_*: of the
           image map. */
        {"run", "CREATE TABLE run(\n"
                "  id INTEGER PRIMARY KEY,\n"
                "  operation TEXT NOT NULL,\n"
                "  options TEXT NOT NULL,\n"
                "  started_unix_s INTEGER NOT NULL,\n"
                "  duration_ms INTEGER NOT NULL,\n"
                "  volumes INTEGER NOT NULL,\n"
                "  files_moved INTEGER NOT NULL,\n"
                "  fragments_before INTEGER NOT NULL,\n"
                "  fragments_after INTEGER NOT NULL,\n"
                "  extents_before INTEGER NOT NULL,\n"
                "  extents_after INTEGER NOT NULL,\n"
                "  metadata_bytes INTEGER NOT NULL\n"
                ") STRICT"},
        /* What a run did to one attribute of one file; kept of the last two runs that moved any. record: number of the
         * base MFT record. */
        {"file", "CREATE TABLE file(\n"
                 "  id INTEGER PRIMARY KEY,\n"
                 "  run INTEGER NOT NULL REFERENCES run(id),\n"
                 "  volume INTEGER NOT NULL,\n"
                 "  record INTEGER NOT NULL,\n"
                 "  path TEXT NOT NULL,\n"
                 "  attribute TEXT NOT NULL,\n"
                 "  bytes INTEGER NOT NULL,\n"
                 "  fragments_before INTEGER NOT NULL,\n"
                 "  fragments_after INTEGER NOT NULL\n"
                 ") STRICT"},
        /* A run that was a settle pass. plane_base: the host offset of the plane (mapdb/settle_plan.h) that it fills,
         * which is where it goes on if it was interrupted: finished is 0 then, and no later run but discards there. */
        {"settle",
         "CREATE TABLE settle(\n"
         "  run INTEGER PRIMARY KEY REFERENCES run(id),\n"
         "  plane_base INTEGER NOT NULL CHECK (plane_base >= 0 AND plane_base % 2097152 = 0),\n"
         "  bytes_moved INTEGER NOT NULL CHECK (bytes_moved >= 0),\n"
         "  finished INTEGER NOT NULL CHECK (finished IN (0, 1))\n"
         ") STRICT",
         2},
};

/* For people with the sqlite3 command; nothing here reads them. */
static const struct view {
	const char *name;
	const char *sql;
	int since; /* version that it is new or different in; 0: the first */
} views[] = {
        {"summary", "CREATE VIEW summary AS\n"
                    "SELECT image.size AS size,\n"
                    "       image.generation AS generation,\n"
                    "       (SELECT count(*) FROM extent) AS extents,\n"
                    "       (SELECT coalesce(max(host_off + length), 0) FROM extent) AS host_end,\n"
                    "       NOT EXISTS (SELECT 1 FROM extent WHERE guest_off <> host_off) AS identity,\n"
                    "       image.redo_pending AS redo_pending,\n"
                    "       EXISTS (SELECT 1 FROM undo_stamp WHERE ctime_ns IS NOT NULL) AS undo_recorded,\n"
                    "       (SELECT count(*) FROM run) AS runs,\n"
                    "       (SELECT datetime(max(started_unix_s), 'unixepoch') FROM run) AS last_run_utc\n"
                    "FROM image"},
        /* How long the extents are. */
        {"fragmentation", "CREATE VIEW fragmentation AS\n"
                          "SELECT CASE WHEN length < 4096 THEN 'below 4 KiB'\n"
                          "            WHEN length < 65536 THEN '4 KiB to 64 KiB'\n"
                          "            WHEN length < 1048576 THEN '64 KiB to 1 MiB'\n"
                          "            WHEN length < 16777216 THEN '1 MiB to 16 MiB'\n"
                          "            WHEN length < 268435456 THEN '16 MiB to 256 MiB'\n"
                          "            ELSE '256 MiB and more' END AS extent_length,\n"
                          "       count(*) AS extents, sum(length) AS bytes\n"
                          "FROM extent GROUP BY 1 ORDER BY min(length)"},
        {"run_history",
         "CREATE VIEW run_history AS\n"
         "SELECT id AS run, operation, options, datetime(started_unix_s, 'unixepoch') AS started_utc,\n"
         "       duration_ms / 1000.0 AS seconds, volumes, files_moved, fragments_before, fragments_after,\n"
         "       extents_before, extents_after, metadata_bytes\n"
         "FROM run ORDER BY id"},
        /* Of the last run that moved files: the files that were in most pieces, and what became of them. */
        {"worst_files",
         "CREATE VIEW worst_files AS\n"
         "SELECT volume, path, attribute, bytes, fragments_before, fragments_after\n"
         "FROM file WHERE run = (SELECT max(run) FROM file)\n"
         "ORDER BY fragments_before DESC, path LIMIT 100",
         2},
        {"settle_history",
         "CREATE VIEW settle_history AS\n"
         "SELECT run, datetime(started_unix_s, 'unixepoch') AS started_utc, duration_ms / 1000.0 AS seconds,\n"
         "       extents_before, extents_after, bytes_moved, plane_base, finished\n"
         "FROM settle JOIN run ON run.id = settle.run ORDER BY run",
         2},
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static int create_view(sqlite3 *connection, const struct view *view)
{
	char drop[64];

	snprintf(drop, sizeof drop, "DROP VIEW IF EXISTS %s", view->name);
	int result = sqlite3_exec(connection, drop, NULL, NULL, NULL);
	return result == SQLITE_OK ? sqlite3_exec(connection, view->sql, NULL, NULL, NULL) : result;
}

/* Creates what came after a version (0: everything), and says that it is there. */
static int create_since(sqlite3 *connection, int version)
{
	char pragma[48];
	int result = SQLITE_OK;

	snprintf(pragma, sizeof pragma, "PRAGMA user_version = %d", MAP_DB_USER_VERSION);
	for (size_t i = 0; i < COUNT(tables) && result == SQLITE_OK; i++)
		if (version == 0 || tables[i].since > version)
			result = sqlite3_exec(connection, tables[i].sql, NULL, NULL, NULL);
	for (size_t i = 0; i < COUNT(views) && result == SQLITE_OK; i++)
		if (version == 0 || views[i].since > version)
			result = create_view(connection, &views[i]);
	return result == SQLITE_OK ? sqlite3_exec(connection, pragma, NULL, NULL, NULL) : result;
}

int map_db_schema_create(sqlite3 *connection)
{
	char pragma[48];

	snprintf(pragma, sizeof pragma, "PRAGMA application_id = %d", MAP_DB_APPLICATION_ID);
	int result = sqlite3_exec(connection, pragma, NULL, NULL, NULL);
	return result == SQLITE_OK ? create_since(connection, 0) : result;
}

static int read_integer(sqlite3 *connection, const char *sql, sqlite3_int64 *value)
{
	sqlite3_stmt *statement = NULL;
	int result = sqlite3_prepare_v2(connection, sql, -1, &statement, NULL);

	if (result == SQLITE_OK)
		result = sqlite3_step(statement);
	if (result == SQLITE_ROW) {
		*value = sqlite3_column_int64(statement, 0);
		result = SQLITE_OK;
	}
	sqlite3_finalize(statement);
	return result;
}

static bool is_table(sqlite3_stmt *row, const struct table *table)
{
	const char *type = (const char *)sqlite3_column_text(row, 0);
	const char *name = (const char *)sqlite3_column_text(row, 1);
	const char *sql = (const char *)sqlite3_column_text(row, 2);

	return type && name && sql && !strcmp(type, "table") && !strcmp(name, table->name) && !strcmp(sql, table->sql);
}

/* Each of our tables is there to the letter, so none is a view, a virtual table or has columns that compute something.
 */
static int check_tables(sqlite3 *connection, int version)
{
	sqlite3_stmt *statement = NULL;
	unsigned int found = 0, wanted = 0;
	int result = sqlite3_prepare_v2(connection, "SELECT type, name, sql FROM sqlite_schema", -1, &statement, NULL);

	for (size_t i = 0; i < COUNT(tables); i++)
		wanted |= tables[i].since <= version ? 1u << i : 0;
	while (result == SQLITE_OK && (result = sqlite3_step(statement)) == SQLITE_ROW) {
		for (size_t i = 0; i < COUNT(tables); i++)
			found |= is_table(statement, &tables[i]) ? 1u << i : 0;
		result = SQLITE_OK;
	}
	sqlite3_finalize(statement);
	if (result != SQLITE_DONE)
		return result;
	return (found & wanted) == wanted ? SQLITE_OK : SQLITE_CORRUPT;
}

static bool is_our_table(const char *name)
{
	bool ours = false;

	for (size_t i = 0; i < COUNT(tables); i++)
		ours |= !strcmp(name, tables[i].name);
	return ours;
}

/* Calls visit for each index that computes something (an expression, or a condition): whoever changes a row of its
 * table must, however long it takes, and nothing interrupts it. SQLite's result. */
static int for_each_computing_index(sqlite3 *connection,
                                    void (*visit)(void *context, const char *table, const char *index), void *context)
{
	sqlite3_stmt *statement = NULL;
	int result = sqlite3_prepare_v2(
	        connection,
	        "SELECT object.name, list.name FROM sqlite_schema AS object, pragma_index_list(object.name) AS list\n"
	        "WHERE object.type = 'table' AND (list.partial OR EXISTS (\n"
	        "  SELECT 1 FROM pragma_index_xinfo(list.name) AS field WHERE field.cid = -2))",
	        -1, &statement, NULL);

	while (result == SQLITE_OK && (result = sqlite3_step(statement)) == SQLITE_ROW) {
		const char *table = (const char *)sqlite3_column_text(statement, 0);
		const char *index = (const char *)sqlite3_column_text(statement, 1);

		result = table && index ? SQLITE_OK : SQLITE_NOMEM;
		if (result == SQLITE_OK)
			visit(context, table, index);
	}
	sqlite3_finalize(statement);
	return result == SQLITE_DONE ? SQLITE_OK : result;
}

static void note_index(void *found, const char *table, const char *index)
{
	*(bool *)found |= is_our_table(table);
}

int map_db_schema_identity(sqlite3 *connection, int *application_id, int *user_version)
{
	sqlite3_int64 id = 0, version = 0;
	int result = read_integer(connection, "PRAGMA application_id", &id);

	if (result == SQLITE_OK)
		result = read_integer(connection, "PRAGMA user_version", &version);
	*application_id = (int)id;
	*user_version = (int)version;
	return result;
}

bool map_db_schema_known(int user_version)
{
	return user_version >= 1 && user_version <= MAP_DB_USER_VERSION;
}

int map_db_schema_check(sqlite3 *connection)
{
	int application_id, user_version;
	int result = map_db_schema_identity(connection, &application_id, &user_version);

	if (result != SQLITE_OK)
		return result;
	if (application_id != MAP_DB_APPLICATION_ID || !map_db_schema_known(user_version))
		return SQLITE_MISMATCH;
	return check_tables(connection, user_version);
}

int map_db_schema_check_writable(sqlite3 *connection)
{
	bool computes = false;
	int result = for_each_computing_index(connection, note_index, &computes);

	return result == SQLITE_OK && computes ? SQLITE_CORRUPT : result;
}

int map_db_schema_upgrade(sqlite3 *connection)
{
	int application_id, version;
	int result = map_db_schema_identity(connection, &application_id, &version);

	return result == SQLITE_OK && version < MAP_DB_USER_VERSION ? create_since(connection, version) : result;
}

/* Which of our views has that name; COUNT(views): none. */
static size_t find_view(const char *name)
{
	size_t i = 0;

	while (i < COUNT(views) && strcmp(views[i].name, name) != 0)
		i++;
	return i;
}

struct comparison {
	void (*visit)(void *context, bool needed, const char *text);
	void *context;
	int version;
	unsigned int tables, views; /* found, a bit each */
	bool only_ours;
};

static void tell(const struct comparison *comparison, bool needed, const char *type, const char *name, const char *what)
{
	char text[200];

	snprintf(text, sizeof text, "%.20s %.100s %s", type, name, what);
	comparison->visit(comparison->context, needed, text);
}

/* What SQLite's ANALYZE makes. */
static bool made_by_analyze(const char *sql)
{
	return !strcmp(sql, "CREATE TABLE sqlite_stat1(tbl,idx,stat)") ||
	       !strcmp(sql, "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)");
}

/* One object of the database against ours. What is newer than the database, the upgrade makes as it should be. */
static void compare_object(struct comparison *comparison, const char *type, const char *name, const char *sql)
{
	size_t view = find_view(name);

	for (size_t i = 0; i < COUNT(tables); i++) {
		if (strcmp(name, tables[i].name) != 0)
			continue;
		comparison->tables |= 1u << i;
		if (strcmp(type, "table") != 0 || strcmp(sql, tables[i].sql) != 0) {
			tell(comparison, true, "table", name, "is not the one that zcfs makes");
			comparison->only_ours = false;
		}
		return;
	}
	if (!strcmp(type, "table") && !made_by_analyze(sql))
		comparison->only_ours = false;
	if (view < COUNT(views)) {
		comparison->views |= 1u << view;
		if (views[view].since <= comparison->version && strcmp(sql, views[view].sql) != 0)
			tell(comparison, false, "view", name, "is not the one that zcfs makes");
	} else if (strncmp(name, "sqlite_", strlen("sqlite_")) != 0) {
		tell(comparison, false, type, name, "was added by somebody; zcfs does not use it");
	}
}

static void compare_computing_index(void *context, const char *table, const char *index)
{
	struct comparison *comparison = context;

	comparison->only_ours = false;
	if (is_our_table(table))
		tell(comparison, true, "index", index,
		     "computes something with every change, so zcfs changes nothing: drop it");
}

static void tell_missing(const struct comparison *comparison)
{
	for (size_t i = 0; i < COUNT(tables); i++) {
		if (tables[i].since <= comparison->version && !(comparison->tables >> i & 1))
			tell(comparison, true, "table", tables[i].name, "is missing");
	}
	for (size_t i = 0; i < COUNT(views); i++) {
		if (views[i].since <= comparison->version && !(comparison->views >> i & 1))
			tell(comparison, false, "view", views[i].name, "is missing");
	}
}

int map_db_schema_compare(sqlite3 *connection, void (*visit)(void *context, bool needed, const char *text),
                          void *context, bool *only_ours)
{
	struct comparison comparison = {.visit = visit, .context = context, .only_ours = true};
	sqlite3_stmt *statement = NULL;
	int application_id, result = map_db_schema_identity(connection, &application_id, &comparison.version);

	if (result == SQLITE_OK)
		result = sqlite3_prepare_v2(connection,
		                            "SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY name", -1,
		                            &statement, NULL);
	while (result == SQLITE_OK && (result = sqlite3_step(statement)) == SQLITE_ROW) {
		const char *column[3];
		for (int i = 0; i < 3; i++) {
			column[i] = (const char *)sqlite3_column_text(statement, i);
			column[i] = column[i] ? column[i] : "";
		}
		compare_object(&comparison, column[0], column[1], column[2]);
		result = SQLITE_OK;
	}
	sqlite3_finalize(statement);
	if (result != SQLITE_DONE)
		return result;
	tell_missing(&comparison);
	result = for_each_computing_index(connection, compare_computing_index, &comparison);
	*only_ours = comparison.only_ours;
	return result;
}

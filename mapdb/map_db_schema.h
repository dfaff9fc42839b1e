/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The schema of map.db as text, and the check that a database has exactly that one.
 */
#ifndef ZCFS_MAP_DB_SCHEMA_H
#define ZCFS_MAP_DB_SCHEMA_H

#include <sqlite3.h>
#include <stdbool.h>

#define MAP_DB_APPLICATION_ID 0x7a636673 /* "zcfs" */
#define MAP_DB_USER_VERSION   2 /* what is made; older ones, from 1, are read as they are and upgraded by the first change */

/* Creates everything in an empty database, inside the caller's transaction. SQLite's result. */
int map_db_schema_create(sqlite3 *connection);

/* Makes of an older version the current one, inside the caller's transaction: adds what it lacks. SQLite's result. */
int map_db_schema_upgrade(sqlite3 *connection);

/* Whose database it is; SQLite's result. */
int map_db_schema_identity(sqlite3 *connection, int *application_id, int *user_version);
bool map_db_schema_known(int user_version); /* that we can use */

/* Calls visit for everything that is not as documented for the database's version; needed: the database cannot be used that way. text:
 * one line. *only_ours: there is no table and no index but ours, so that SQLite's own checks evaluate no expressions of
 * others. SQLite's result. */
int map_db_schema_compare(sqlite3 *connection, void (*visit)(void *context, bool needed, const char *text),
			  void *context, bool *only_ours);

/* SQLITE_OK; SQLITE_MISMATCH: another application's file or a newer version; SQLITE_CORRUPT: not our tables; or why it could not be
 * read. */
int map_db_schema_check(sqlite3 *connection);
/* Of one that has passed that, inside the caller's transaction: SQLITE_CORRUPT: an index of our tables computes something. */
int map_db_schema_check_writable(sqlite3 *connection);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map_db: the rows of an image map: read, written whole, or only where two maps differ.
 */
#include <errno.h>

#include "mapdb/map_db_internal.h"

static int read_extents(struct map_db *db, const char *sql, struct image_map_builder *builder)
{
	cleanup_statement sqlite3_stmt *select = NULL;
	int rc = db_prepare(db, sql, &select);
	int result = SQLITE_ROW;

	while (rc == 0 && (result = sqlite3_step(select)) == SQLITE_ROW) {
		struct extent extent;

		if (!db_column_u64(select, 0, &extent.guest_off) || !db_column_u64(select, 1, &extent.length) ||
		    !db_column_u64(select, 2, &extent.host_off))
			return -EUCLEAN;
		rc = image_map_builder_add(builder, &extent);
	}
	return rc < 0 ? rc : db_translate(db, result);
}

static int read_map(struct map_db *db, const char *size_sql, const char *extents_sql, struct image_map **out)
{
	cleanup_statement sqlite3_stmt *select = NULL;
	struct image_map_builder *builder = NULL;
	uint64_t size;

	/* While this statement has a row, both are read from one snapshot. */
	int rc = db_prepare(db, size_sql, &select);
	if (rc == 0)
		rc = db_step_row(db, select);
	if (rc < 0)
		return rc;
	if (!db_column_u64(select, 0, &size))
		return -EUCLEAN;
	rc = image_map_builder_new(64, &builder);
	if (rc < 0)
		return rc;
	rc = read_extents(db, extents_sql, builder);
	if (rc < 0) {
		image_map_builder_drop(builder);
		return rc;
	}
	return image_map_builder_finish(builder, size, out);
}

int map_db_read_map(struct map_db *db, struct image_map **out)
{
	return read_map(db, "SELECT size FROM image WHERE id = 1",
	                "SELECT guest_off, length, host_off FROM extent NOT INDEXED ORDER BY guest_off", out);
}

int map_db_read_undo_map(struct map_db *db, struct image_map **out)
{
	return read_map(db, "SELECT size FROM undo_stamp WHERE id = 1",
	                "SELECT guest_off, length, host_off FROM undo_extent NOT INDEXED ORDER BY guest_off", out);
}

static int run_with_extent(struct map_db *db, sqlite3_stmt *statement, const struct extent *extent)
{
	sqlite3_bind_int64(statement, 1, (sqlite3_int64)extent->guest_off);
	sqlite3_bind_int64(statement, 2, (sqlite3_int64)extent->length);
	sqlite3_bind_int64(statement, 3, (sqlite3_int64)extent->host_off);
	int result = sqlite3_step(statement);
	sqlite3_reset(statement);
	return result == SQLITE_DONE ? 0 : db_translate(db, result);
}

static int prepare_insert(struct map_db *db, sqlite3_stmt **insert)
{
	return db_prepare(db, "INSERT INTO extent(guest_off, length, host_off) VALUES (?1, ?2, ?3)", insert);
}

int db_insert_extents(struct map_db *db, const struct image_map *map)
{
	cleanup_statement sqlite3_stmt *insert = NULL;
	size_t count = image_map_count(map);
	int rc = prepare_insert(db, &insert);

	for (size_t i = 0; i < count && rc == 0; i++) {
		struct extent extent = image_map_get(map, i);

		rc = run_with_extent(db, insert, &extent);
	}
	return rc;
}

/* The row must be there as it is expected to be. */
static int delete_row(struct map_db *db, sqlite3_stmt *delete, const struct extent *extent)
{
	int rc = run_with_extent(db, delete, extent);

	return rc == 0 && sqlite3_changes(db->connection) != 1 ? -EUCLEAN : rc;
}

static bool same_extent(const struct extent *a, const struct extent *b)
{
	return a->guest_off == b->guest_off && a->length == b->length && a->host_off == b->host_off;
}

/* Both maps are walked in guest order; a row of the old one always goes before one of the new one comes to its place.
 */
static int put_difference(struct map_db *db, const struct image_map *old, const struct image_map *map)
{
	cleanup_statement sqlite3_stmt *delete = NULL, *insert = NULL;
	size_t old_count = image_map_count(old), count = image_map_count(map), i = 0, j = 0;
	int rc = prepare_insert(db, &insert);

	if (rc == 0)
		rc = db_prepare(db, "DELETE FROM extent WHERE guest_off = ?1 AND length = ?2 AND host_off = ?3",
		                &delete);
	while (rc == 0 && (i < old_count || j < count)) {
		struct extent a = {.guest_off = UINT64_MAX}, b = {.guest_off = UINT64_MAX};

		if (i < old_count)
			a = image_map_get(old, i);
		if (j < count)
			b = image_map_get(map, j);
		if (same_extent(&a, &b)) {
			i++;
			j++;
		} else if (a.guest_off <= b.guest_off) {
			rc = delete_row(db, delete, &a);
			i++;
		} else {
			rc = run_with_extent(db, insert, &b);
			j++;
		}
	}
	return rc;
}

int db_replace_map(struct map_db *db, const struct image_map *old, const struct image_map *map)
{
	int rc = db_drop_undo_rows(db);

	if (rc == 0)
		rc = put_difference(db, old, map);
	if (rc == 0)
		rc = db_execute_with(db, "UPDATE image SET generation = generation + 1, size = ?1",
		                     image_map_size(map));
	return rc;
}

int map_db_resize(struct map_db **db, const struct image_map *old, const struct image_map *map)
{
	int rc = map_db_begin(*db);

	if (rc < 0)
		return rc;
	rc = db_replace_map(*db, old, map);
	if (rc == 0)
		return db_commit_known(db, true);
	map_db_rollback(*db);
	return rc;
}

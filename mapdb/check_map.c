/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * check: the rows of a map, one by one, so that what is wrong can be told and not only that something is.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "mapdb/check_internal.h"
#include "mapdb/cleanup.h"

struct rows {
	struct check *check;
	enum finding_kind kind;
	enum finding_weight weight;
	const char *table;
	size_t count, capacity;
	struct extent *extents;
	uint64_t end; /* guest offset up to which there is no gap */
	bool good;
};

static void cleanup_rows(struct rows *rows)
{
	free(rows->extents);
}

#define ROW_FAULT(rows, ...)                                                                                           \
	do {                                                                                                           \
		(rows)->good = false;                                                                                  \
		check_add((rows)->check, (rows)->kind, (rows)->weight, __VA_ARGS__);                                   \
	} while (0)

/* Numbers that cannot be an extent, whatever its neighbours are. */
static bool row_possible(struct rows *rows, const struct extent *extent)
{
	if (extent->guest_off % IMAGE_MAP_UNIT != 0 || extent->host_off % IMAGE_MAP_UNIT != 0)
		ROW_FAULT(rows,
		          "%s at guest offset %" PRIu64 ": offsets are no multiples of %u (host offset %" PRIu64 ")",
		          rows->table, extent->guest_off, IMAGE_MAP_UNIT, extent->host_off);
	else if (extent->length == 0 || extent->length > IMAGE_MAP_OFF_MAX - extent->guest_off ||
	         extent->length > IMAGE_MAP_OFF_MAX - extent->host_off)
		ROW_FAULT(rows, "%s at guest offset %" PRIu64 ": its length %" PRIu64 " is impossible", rows->table,
		          extent->guest_off, extent->length);
	else
		return true;
	return false;
}

static int add_row(struct rows *rows, const struct extent *extent)
{
	if (rows->count == rows->capacity) {
		size_t capacity = rows->capacity ? rows->capacity * 2 : 1024;
		struct extent *extents = reallocarray(rows->extents, capacity, sizeof *extents);

		if (!extents)
			return -ENOMEM;
		rows->extents = extents;
		rows->capacity = capacity;
	}
	rows->extents[rows->count++] = *extent;
	return 0;
}

static int take_row(struct rows *rows, sqlite3_stmt *row)
{
	struct extent extent;

	if (!db_column_u64(row, 0, &extent.guest_off) || !db_column_u64(row, 1, &extent.length) ||
	    !db_column_u64(row, 2, &extent.host_off)) {
		ROW_FAULT(rows, "%s at guest offset %lld: a number is missing or negative", rows->table,
		          (long long)sqlite3_column_int64(row, 0));
		return 0;
	}
	if (!row_possible(rows, &extent))
		return 0;
	if (extent.guest_off > rows->end)
		ROW_FAULT(rows, "%s: guest bytes %" PRIu64 " to %" PRIu64 " are mapped nowhere", rows->table, rows->end,
		          extent.guest_off - 1);
	else if (extent.guest_off < rows->end)
		ROW_FAULT(rows, "%s: guest bytes %" PRIu64 " to %" PRIu64 " are mapped twice", rows->table,
		          extent.guest_off, rows->end - 1);
	if (extent.guest_off + extent.length > rows->end)
		rows->end = extent.guest_off + extent.length;
	return add_row(rows, &extent);
}

static int by_host_off(const void *a, const void *b)
{
	const struct extent *x = a, *y = b;

	return x->host_off < y->host_off ? -1 : x->host_off > y->host_off;
}

static void check_sharing(struct rows *rows)
{
	if (rows->count > 1)
		qsort(rows->extents, rows->count, sizeof rows->extents[0], by_host_off);
	for (size_t i = 0; i + 1 < rows->count; i++) {
		const struct extent *a = &rows->extents[i], *b = &rows->extents[i + 1];

		if (b->host_off - a->host_off < a->length)
			ROW_FAULT(rows,
			          "%s: host bytes from %" PRIu64 " on belong to two guest offsets, %" PRIu64
			          " and %" PRIu64,
			          rows->table, b->host_off, a->guest_off + (b->host_off - a->host_off), b->guest_off);
	}
}

static int read_rows(struct rows *rows, struct map_db *db)
{
	cleanup_statement sqlite3_stmt *select = NULL;
	char sql[120];
	int64_t last = INT64_MIN;
	int result = SQLITE_ROW, rc;

	snprintf(sql, sizeof sql, "SELECT guest_off, length, host_off FROM %s NOT INDEXED ORDER BY guest_off",
	         rows->table);
	rc = db_prepare(db, sql, &select);
	while (rc == 0 && (result = sqlite3_step(select)) == SQLITE_ROW) {
		if (!db_key_ascends(select, 0, &last)) {
			ROW_FAULT(rows, "the rows of table %s are not in order", rows->table);
			return 0;
		}
		rc = take_row(rows, select);
	}
	if (rc == 0)
		rc = db_translate(db, result);
	if (rc == -EUCLEAN) {
		ROW_FAULT(rows, "table %s cannot be read to its end: %.120s", rows->table,
		          sqlite3_errmsg(db->connection));
		return 0;
	}
	return rc;
}

int check_extents(struct check *check, struct map_db *db, const char *table, enum finding_kind kind, uint64_t size,
                  struct image_map **map)
{
	__attribute__((cleanup(cleanup_rows))) struct rows rows = {.check = check,
	                                                           .kind = kind,
	                                                           .weight = kind == FINDING_UNDO ? REPAIRABLE : FAULT,
	                                                           .table = table,
	                                                           .good = true};
	int rc = read_rows(&rows, db);

	if (rc < 0)
		return rc;
	if (rows.end != size)
		ROW_FAULT(&rows, "%s: the map ends at %" PRIu64 ", but the image has %" PRIu64 " bytes", table,
		          rows.end, size);
	check_sharing(&rows);
	if (!rows.good)
		return 0;
	rc = kind == FINDING_UNDO ? map_db_read_undo_map(db, map) : map_db_read_map(db, map);
	if (rc == -EUCLEAN) { /* an odd length in the middle */
		check_add(check, kind, rows.weight, "%s: an extent other than the last one has an odd length", table);
		return 0;
	}
	return rc;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map_db: redo and undo, from the room that redo needs before COMMIT to its application after it, and the way back.
 */
#include "mapdb/map_db.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "mapdb/map_db_internal.h"

/* Calls visit for every blob of pending redo, in order, until one fails. */
static int for_each_redo(struct map_db *db, int (*visit)(void *context, const uint8_t *blob, size_t size),
                         void *context)
{
	cleanup_statement sqlite3_stmt *select = NULL;
	int rc = db_prepare(db, "SELECT seq, entries FROM redo NOT INDEXED ORDER BY seq", &select);
	int result = SQLITE_ROW;
	int64_t last = INT64_MIN;

	while (rc == 0 && (result = sqlite3_step(select)) == SQLITE_ROW) {
		if (!db_key_ascends(select, 0, &last) || sqlite3_column_type(select, 1) != SQLITE_BLOB)
			return -EUCLEAN;
		const uint8_t *blob = sqlite3_column_blob(select, 1);
		int size = sqlite3_column_bytes(select, 1);

		if (!blob && sqlite3_errcode(db->connection) == SQLITE_NOMEM)
			return -ENOMEM;
		if (!blob || size <= 0 || (size_t)size > REDO_BLOB_SIZE_MAX)
			return -EUCLEAN;
		rc = visit(context, blob, (size_t)size);
	}
	return rc < 0 ? rc : db_translate(db, result);
}

static int visit_overlay(void *context, const uint8_t *blob, size_t size)
{
	return redo_overlay_add(context, blob, size);
}

int map_db_read_redo(struct map_db *db, struct redo_overlay **out)
{
	struct redo_overlay *overlay;
	int rc = redo_overlay_new(&overlay);

	if (rc < 0)
		return rc;
	rc = for_each_redo(db, visit_overlay, overlay);
	if (rc == 0)
		rc = redo_overlay_seal(overlay);
	if (rc < 0) {
		redo_overlay_free(overlay);
		return rc;
	}
	*out = overlay;
	return 0;
}

/* Where the data file has data, as far as it was looked: [start, end) has no hole. */
struct data_range {
	uint64_t start, end;
};

struct reservation {
	const struct io *io;
	int data_fd;
	uint64_t data_size;
	struct data_range known;    /* looked at: no hole in it */
	struct data_range gathered; /* to be allocated with one call */
};

/* True if [off, off + length) has no hole. Where the file system cannot tell, nothing is one. */
static bool has_data(struct reservation *reservation, uint64_t off, uint64_t length)
{
	struct data_range *known = &reservation->known;

	if (off < known->start || off >= known->end) {
		off_t hole = lseek(reservation->data_fd, (off_t)off, SEEK_HOLE);

		*known = (struct data_range){.start = off, .end = hole < 0 ? UINT64_MAX : (uint64_t)hole};
	}
	return length <= known->end - off;
}

#define RESERVE_ALIGN 4096u /* what redo_apply_blob may touch around an entry */

/* Allocates the range gathered so far. */
static int reserve_gathered(struct reservation *reservation)
{
	struct data_range range = reservation->gathered;

	reservation->gathered = (struct data_range){0};
	if (range.start == range.end)
		return 0;
	int rc = reservation->io->fallocate(reservation->io, reservation->data_fd, FALLOC_FL_KEEP_SIZE, range.start,
	                                    range.end - range.start);
	return rc == -EOPNOTSUPP || rc == -ENOSYS ? 0 : rc;
}

static int reserve_entry(struct reservation *reservation, const struct redo_entry *entry)
{
	struct data_range *gathered = &reservation->gathered;
	uint64_t start = entry->host_off - entry->host_off % RESERVE_ALIGN;
	uint64_t end = entry->host_off + entry->length;
	int rc = 0;

	end += (RESERVE_ALIGN - end % RESERVE_ALIGN) % RESERVE_ALIGN;
	if (end > reservation->data_size)
		end = reservation->data_size;
	if (start >= gathered->start && end <= gathered->end)
		return 0;
	if (has_data(reservation, start, end - start))
		return 0;
	if (start >= gathered->start && start <= gathered->end && gathered->start < gathered->end) {
		gathered->end = end;
		return 0;
	}
	rc = reserve_gathered(reservation);
	*gathered = (struct data_range){.start = start, .end = end};
	return rc;
}

static int visit_reserve(void *context, const uint8_t *blob, size_t size)
{
	struct reservation *reservation = context;
	struct redo_entry entry;
	size_t pos = 0;
	int rc = redo_check_blob(reservation->data_size, blob, size);

	while (rc == 0 && redo_next(blob, size, &pos, &entry) > 0)
		rc = reserve_entry(reservation, &entry);
	return rc;
}

int map_db_reserve_redo(struct map_db *db, int data_fd)
{
	struct reservation reservation = {.io = db->io, .data_fd = data_fd};
	struct stat status;

	if (fstat(data_fd, &status) < 0)
		return -errno;
	reservation.data_size = (uint64_t)status.st_size;
	int rc = for_each_redo(db, visit_reserve, &reservation);
	return rc == 0 ? reserve_gathered(&reservation) : rc;
}

uint64_t map_db_unwritten(struct map_db *db)
{
	int bytes = 0, most;

	sqlite3_db_status(db->connection, SQLITE_DBSTATUS_CACHE_USED, &bytes, &most, 0);
	return (uint64_t)bytes;
}

struct application {
	const struct io *io;
	int data_fd;
	uint64_t data_size;
};

static int visit_check(void *context, const uint8_t *blob, size_t size)
{
	struct application *application = context;

	return redo_check_blob(application->data_size, blob, size);
}

static int visit_apply(void *context, const uint8_t *blob, size_t size)
{
	struct application *application = context;

	return redo_apply_blob(application->io, application->data_fd, application->data_size, blob, size);
}

/* A file's ctime as kept in undo_stamp. */
static int64_t ctime_ns(const struct stat *status)
{
	return (int64_t)status->st_ctim.tv_sec * 1000000000 + status->st_ctim.tv_nsec;
}

/* Says what the data file looks like now. */
static int put_stamp(struct map_db *db, const struct stat *status)
{
	cleanup_statement sqlite3_stmt *stamp = NULL;
	int rc = db_prepare(db, "UPDATE undo_stamp SET data_size = ?1, ctime_ns = ?2", &stamp);

	if (rc < 0)
		return rc;
	sqlite3_bind_int64(stamp, 1, status->st_size);
	sqlite3_bind_int64(stamp, 2, ctime_ns(status));
	return db_run_statement(db, stamp);
}

/* Forgets redo. */
static int finish_redo(struct map_db *db, const struct stat *status)
{
	int rc = db_begin_write(db);

	if (rc == 0)
		rc = db_execute(db, "DELETE FROM redo; UPDATE image SET redo_pending = 0");
	if (rc == 0)
		rc = put_stamp(db, status);
	if (rc == 0)
		rc = db_execute(db, "COMMIT");
	if (rc < 0)
		map_db_rollback(db);
	return rc;
}

/* Times of files advance in ticks. Waits until a write would change the ctime, so that undo cannot overlook it. */
static void outwait_tick(const struct stat *status)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	struct timespec now;

	for (int i = 0; i < 20; i++) {
		clock_gettime(CLOCK_REALTIME_COARSE, &now);
		if ((int64_t)now.tv_sec * 1000000000 + now.tv_nsec != ctime_ns(status))
			return;
		nanosleep(&pause, NULL);
	}
}

int map_db_apply_redo(struct map_db *db, int data_fd)
{
	struct application application = {.io = db->io, .data_fd = data_fd};
	struct map_state state;
	struct stat status;
	int rc = map_db_read_state(db, &state);

	if (rc < 0 || !state.redo_pending)
		return rc;
	if (db->read_only)
		return -EROFS;
	if (fstat(data_fd, &status) < 0)
		return -errno;
	application.data_size = (uint64_t)status.st_size;

	rc = for_each_redo(db, visit_check, &application);
	/* Whoever committed may have died between the journal's removal and its sync. If the journal came back after
	 * the data has changed, it would bring back a map that does not fit. */
	if (rc == 0)
		rc = db->io->fsync(db->io, db->bundle_fd);
	if (rc == 0)
		rc = for_each_redo(db, visit_apply, &application);
	if (rc == 0)
		rc = db->io->fdatasync(db->io, data_fd);
	if (rc < 0)
		return rc;
	if (fstat(data_fd, &status) < 0)
		return -errno;
	rc = finish_redo(db, &status);
	if (rc == 0)
		outwait_tick(&status);
	return rc;
}

int map_db_undo_valid(struct map_db *db, int data_fd, bool *valid)
{
	cleanup_statement sqlite3_stmt *select = NULL;
	struct stat status;

	*valid = false;
	if (fstat(data_fd, &status) < 0)
		return -errno;
	int rc = db_prepare(db,
	                    "SELECT 1 FROM undo_stamp JOIN image USING (generation)"
	                    " WHERE redo_pending = 0 AND data_size = ?1 AND ctime_ns = ?2",
	                    &select);
	if (rc < 0)
		return rc;
	sqlite3_bind_int64(select, 1, status.st_size);
	sqlite3_bind_int64(select, 2, ctime_ns(&status));
	int result = sqlite3_step(select);
	*valid = result == SQLITE_ROW;
	return db_translate(db, result);
}

int map_db_stamp_undo(struct map_db *db, int data_fd)
{
	struct stat status;
	int rc = fstat(data_fd, &status) < 0 ? -errno : map_db_begin(db);

	if (rc < 0)
		return rc;
	rc = map_db_end(db, put_stamp(db, &status));
	if (rc == 0)
		outwait_tick(&status);
	return rc;
}

int map_db_put_undo(struct map_db *db, int data_fd, const struct run_record *run)
{
	struct run_record undone = *run;
	struct image_map *map = NULL;
	bool valid;
	int rc = map_db_undo_valid(db, data_fd, &valid);

	if (rc == 0 && !valid)
		rc = -ENODATA;
	if (rc == 0)
		rc = db_execute(db, "DELETE FROM extent;"
		                    "INSERT INTO extent SELECT * FROM undo_extent;"
		                    "INSERT INTO redo SELECT * FROM undo;"
		                    "UPDATE image SET generation = generation + 1, redo_pending = 1,"
		                    " size = (SELECT size FROM undo_stamp)");
	if (rc == 0)
		rc = db_drop_undo_rows(db);
	db->changing = true; /* there is no undo of undo */
	if (rc == 0)
		rc = map_db_read_map(db, &map); /* checks it */
	if (rc < 0)
		return rc;
	undone.extents_after = image_map_count(map);
	image_map_unref(map);
	return map_db_put_run(db, &undone);
}

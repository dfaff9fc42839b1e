/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map_db: the SQLite database of one bundle: the image map, pending redo, undo and the history of runs.
 *
 * The schema is documented where it is created, in map_db_schema.c. A database of an older version is read as it is; the
 * first change upgrades it in its own transaction. The file is always opened by the name "map.db" below the
 * bundle's descriptor, through the project's own SQLite VFS (mapdb/vfs.h) and therefore through struct io.
 * Callers hold the image's lock (mapdb/image.h): shared to read, exclusive (or, inside the daemon, its own mutex around a
 * shared one) to write. A struct map_db is used by one thread at a time. Functions return 0 or -errno; SQLite's result is
 * translated: damage -> -EUCLEAN, another's lock -> -EBUSY, full -> -ENOSPC, read-only -> -EROFS, I/O -> -EIO, a newer
 * schema or another application's file -> -EMEDIUMTYPE.
 *
 * Crash: every change is made in one transaction (synchronous=EXTRA, rollback journal), so a crash leaves all or nothing.
 */
#ifndef ZCFS_MAP_DB_H
#define ZCFS_MAP_DB_H

#include <stdbool.h>
#include <stdint.h>

#include "mapdb/image_map.h"
#include "mapdb/io.h"
#include "mapdb/redo.h"

#define MAP_DB_NAME "map.db"

struct map_db;

struct map_state {
	uint64_t generation; /* incremented by every change of the map */
	uint64_t size;	     /* bytes, as the guest sees the image */
	bool redo_pending;   /* a committed change has not reached the data file yet */
	bool undo_recorded;  /* an undo exists; whether it is still valid also depends on the data file */
};

/* What a run did, as kept in the table run. */
struct run_record {
	const char *operation;	   /* "defrag", "undo", "settle", "discard" */
	const char *options;	   /* as the user gave them, for the reader */
	int64_t started_unix_s;	   /* seconds since 1970 */
	int64_t duration_ms;	   /* until commit */
	uint64_t volumes;	   /* volumes changed */
	uint64_t files_moved;	   /* attributes whose run list changed */
	uint64_t fragments_before; /* of all non-resident attributes */
	uint64_t fragments_after;
	uint64_t extents_before; /* of the image map */
	uint64_t extents_after;
	uint64_t metadata_bytes; /* bytes of guest metadata that redo changes */
};

/* What a run that is a settle pass did besides, as kept in the table settle. */
struct settle_record {
	int64_t run;	      /* its row in the table run; 0: none yet */
	uint64_t plane_base;  /* host offset of the plane that it fills, see mapdb/settle_plan.h */
	uint64_t bytes_moved; /* data copied */
	bool finished;
};

/* What a run did to one attribute, as kept in the table file. */
struct file_record {
	uint32_t volume;     /* number of the volume in the image, from 1 */
	uint64_t record;     /* number of the base MFT record */
	const char *path;    /* UTF-8, '/'-separated, ":stream" appended for a named stream */
	const char *attribute; /* attribute type, e.g. "$DATA" */
	uint64_t bytes;	     /* allocated */
	uint64_t fragments_before;
	uint64_t fragments_after;
};

/* Makes map.db with the given map, generation 1, no redo, no undo. -EEXIST if there is one. Durable on return,
 * but for the directory entry: the caller syncs bundle_fd. */
int map_db_create(const struct io *io, int bundle_fd, const struct image_map *map);

enum map_db_flags {
	MAP_DB_READ_ONLY = 1,
	MAP_DB_NO_WAIT = 2, /* -EBUSY at once where another is in the way, from the first look to the commit; else after two seconds */
};

/* Opens map.db; rolls back a hot journal, unless MAP_DB_READ_ONLY and the file system is: then -EROFS. */
int map_db_open(const struct io *io, int bundle_fd, int flags, struct map_db **out);
void map_db_close(struct map_db *db); /* rolls back an open transaction; NULL is allowed */

/* What is read between the two comes from one snapshot. Needed only by those who hold no lock on the image. */
int map_db_snapshot_begin(struct map_db *db);
/* An error leaves the snapshot, and with it no way to a change but closing the database. */
int map_db_snapshot_end(struct map_db *db);

int map_db_read_state(struct map_db *db, struct map_state *state);
/* Reads and checks the whole map. -EUCLEAN if it breaks an invariant of mapdb/image_map.h. */
int map_db_read_map(struct map_db *db, struct image_map **out);
/* Pending redo, to serve an image on which it cannot be applied. *out is sealed. */
int map_db_read_redo(struct map_db *db, struct redo_overlay **out);

/* For who has much to do before a change: -EBUSY if it could not be committed now, because another reads or changes the database. */
int map_db_look_alone(struct map_db *db);

/* One change of the map, with redo, undo and history. begin takes the database's write lock (-EBUSY; -EINPROGRESS: redo of an
 * earlier change is still pending). All puts between begin and commit, in any order; a failed put leaves rollback as the only way on.
 * The first put of a map or of redo discards the undo of an earlier run and keeps the current rows as undo. */
int map_db_begin(struct map_db *db);
int map_db_rollback(struct map_db *db);
/* Writes the new rows; the generation is incremented once for each transaction. -EINVAL if the map has another size. */
int map_db_put_map(struct map_db *db, const struct image_map *map);
/* One blob of redo with the undo blob of the bytes it replaces. Blobs in the order of their application. */
int map_db_put_redo(struct map_db *db, const struct redo_blob *redo, const struct redo_blob *undo);
/* The history row; its id is kept for the files that follow. Call before the first put_file. update_run rewrites the row. */
int map_db_put_run(struct map_db *db, const struct run_record *run);
int map_db_update_run(struct map_db *db, const struct run_record *run);
int map_db_put_file(struct map_db *db, const struct file_record *file);
/* Makes room in the data file for what pending redo will write, this transaction's included: holes that it touches are allocated.
 * Call before commit. -ENOSPC etc.; file systems that cannot allocate are passed over. */
int map_db_reserve_redo(struct map_db *db, int data_fd);
/* Bytes that COMMIT has to write at most: the pages in memory. */
uint64_t map_db_unwritten(struct map_db *db);
/* Commits. After this the change is durable, and redo must be applied before anyone reads the image. -EBUSY: another reads the
 * database; commit may be tried again. After any other error whether the change was made is only known after map_db_close and
 * map_db_open, from the generation. */
int map_db_commit(struct map_db *db);
/* Commits if rc, the result of the puts, is 0; otherwise, and where that fails, rolls back. rc, or what COMMIT has said. */
int map_db_end(struct map_db *db, int rc);

/* Makes sure that the commit is durable, applies pending redo to the data file, syncs it, then deletes redo and stamps the undo with the data file's size and ctime.
 * Nothing to do is success. Repeatable: a crash anywhere in it leaves redo pending or done. After a failed sync nothing is
 * retried: -EIO (or what the sync said) and redo stays. */
int map_db_apply_redo(struct map_db *db, int data_fd);

/* True if an undo exists and generation, data file size and ctime are those stamped after the run. */
int map_db_undo_valid(struct map_db *db, int data_fd, bool *valid);
/* The map that an undo goes back to. */
int map_db_read_undo_map(struct map_db *db, struct image_map **out);
/* For who has made sure that an undo is valid, and then has changed of the data file only what neither map names: it is valid again. */
int map_db_stamp_undo(struct map_db *db, int data_fd);
/* A put: between begin and commit, makes the transaction the one that puts back the previous map and bytes: undo becomes
 * redo. Adds a run row, with the extents afterwards. -ENODATA without a valid undo. */
int map_db_put_undo(struct map_db *db, int data_fd, const struct run_record *run);

/* The image was cut or grown (data file already grown, or about to be cut): new map instead of old, which is the one stored;
 * generation, no undo. Only rows that differ are rewritten. 0: done and durable. -EINPROGRESS: it cannot be found out whether it was
 * done (so the space of both maps must stay), or redo is pending. Otherwise nothing is changed. *db as after map_db_settle(). */
int map_db_resize(struct map_db **db, const struct image_map *old, const struct image_map *map);
/* The guest gave space back: undo would bring back what it discarded. Deletes the undo, if any. */
int map_db_drop_undo(struct map_db *db);

/* A portion of a settle pass was copied, and is durable: map takes the place of old, which is the one stored (both may be the
 * same); rewrites only rows that differ; run and settle are recorded, in new rows if settle->run is 0, which it then is no longer;
 * undo goes. If COMMIT fails, closes *db and looks again what became of it.
 * 0: done and durable. -EINPROGRESS: it cannot be found out whether it was done, so either map may be the one that is found next
 * time. Otherwise nothing is changed. *db is open again, or NULL after -EINPROGRESS. */
int map_db_settle(struct map_db **db, const struct image_map *old, const struct image_map *map,
		  const struct run_record *run, struct settle_record *settle);
/* The last run but for discards, if it is a settle pass that was not finished; else settle->run is 0. The history row's counters are read, too. */
int map_db_unfinished_settle(struct map_db *db, struct settle_record *settle, struct run_record *run);

/* Calls visit for the last count runs, the newest first; the texts are valid during the call. Non-zero (-errno) ends it. */
typedef int (*map_db_run_visit)(void *context, const struct run_record *run);
int map_db_read_runs(struct map_db *db, unsigned int count, map_db_run_visit visit, void *context);

/* Writes a consistent copy of the database to the (empty) file copy_fd, with the SQLite backup API. */
int map_db_copy(struct map_db *db, const struct io *io, int copy_fd);

#endif

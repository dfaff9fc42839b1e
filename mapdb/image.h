/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * image: one disk image of a store, plain or bundle: finding it, locking it, loading its map, changing its map.
 *
 *     DIR/win7.img        a plain image: a regular file, identity map, no database
 *     DIR/win10.img/      a bundle: a directory that holds
 *         map.db          the map database
 *         data            the bytes; its owner, mode, times and inode number are the image's
 *
 * The lock is flock() on the data file's inode, which survives adoption: LOCK_SH while the daemon has the image open,
 * LOCK_EX for tools. Whether a name is plain or a bundle is decided afresh, under the lock, at every open.
 * One thread at a time for a struct image, except that map, once taken with image_map_ref, is anyone's.
 *
 * Adoption (plain to bundle) builds ".NAME.zcfs-XXXXXX/" with map.db and a hard link to the file as data, makes both
 * durable, exchanges the two names and drops the old link. A crash leaves one valid image under the name and at most a stale
 * ".NAME.zcfs-XXXXXX", which image_clean_stale() removes.
 */
#ifndef ZCFS_IMAGE_H
#define ZCFS_IMAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "mapdb/image_map.h"
#include "mapdb/io.h"
#include "mapdb/map_db.h"
#include "mapdb/redo.h"

#define BUNDLE_DATA_NAME "data"

enum image_access {
	IMAGE_UNLOCKED,	 /* no lock: to look at an image in use (--analyze). Read-only. */
	IMAGE_SHARED,	 /* LOCK_SH: the daemon */
	IMAGE_EXCLUSIVE, /* LOCK_EX and a write lease: the tools */
};

enum image_flags {
	IMAGE_READ_ONLY = 1, /* data and database opened O_RDONLY; pending redo is overlaid instead of applied */
	IMAGE_WAIT = 2,	     /* wait for the lock instead of -EBUSY (any length of time; interruptible: -EINTR) */
	IMAGE_MAP_ONLY = 4,  /* with IMAGE_UNLOCKED: data_fd is only for fstat(), and opening it breaks no lease */
};

struct image {
	const struct io *io;
	int parent_fd; /* directory of the name; own descriptor */
	char *name;
	int data_fd;
	int bundle_fd;		      /* -1: plain; between begin and commit of an adoption: the bundle being built */
	struct map_db *db;	      /* NULL: plain, or closed again after loading (see image_open) */
	struct image_map *map;	      /* never NULL */
	struct map_state state;	      /* generation 0: plain */
	struct redo_overlay *overlay; /* redo that could not be applied: reads must be patched, writes refused; else NULL */
	bool read_only;		      /* asked for, or forced by an overlay or a read-only file system */
	bool in_doubt;		      /* see image_commit */
	bool leased;		      /* IMAGE_EXCLUSIVE: a write lease is held; false where the file system has none */
	bool waited;		      /* the lock was not free at once */
	enum image_access access;
	int64_t lease_safe_until_ms;  /* CLOCK_MONOTONIC; see image_still_ours */
	/* while a change is under way on a plain image: the bundle being built */
	char *staging_name;
};

/* What a name in a store is, without locking or opening anything for long. */
enum name_kind {
	NAME_OTHER,   /* directory, symbolic link, device ... */
	NAME_FILE,    /* a regular file: a plain image as far as zcfs is concerned */
	NAME_BUNDLE,  /* a directory with a map.db */
};
/* Classifies parent_fd/name. *status is lstat's of the thing itself, or for a bundle that of its data with st_size replaced by
 * the image's size. -ENOENT; -EUCLEAN: a directory with a map.db that is not a valid bundle (data missing, not a
 * regular file, linked elsewhere, database unreadable). */
int image_classify(const struct io *io, int parent_fd, const char *name, enum name_kind *kind, struct stat *status);

/* Names that a user of a mount must not make: "map.db" and ".*zcfs-*". */
bool image_name_reserved(const char *name);

/* True if the directory of a bundle takes other names for map.db, as those do to which upper and lower case are the same. There the
 * names that are not reserved are as good as the one that is: no image is adopted, and no bundle served. db: of map.db. */
bool image_names_fold(int bundle_fd, const struct stat *db);

/* Opens parent_fd/name (a regular file or a bundle), takes the lock, checks afterwards that the name still means the inode that was
 * locked (else starts again), brings pending redo up to date (with LOCK_EX on a descriptor of its own if access is
 * IMAGE_SHARED), loads the map.
 *   IMAGE_SHARED: the database is closed again; image_db_open() opens it when needed. -EBUSY at once if another is just changing it.
 *   IMAGE_EXCLUSIVE: takes the lease too (retrying for lease_patience_ms), leaves the database open.
 * Only IMAGE_SHARED breaks the lease of a tool at work; the others leave it alone (see mapdb/lock_table.h).
 * -EBUSY: locked or leased by another, or (exclusive) somebody has the file open; -EAGAIN: leased by another (unlocked); -EUCLEAN damaged bundle or map, or data shorter than it; -EISDIR a directory that is no
 * bundle; -ESTALE the name no longer exists (after waiting; -ENOENT it never did); -EROFS etc. from the system. */
int image_open(const struct io *io, int parent_fd, const char *name, enum image_access access, int flags,
	       unsigned int lease_patience_ms, struct image **out);
void image_close(struct image *image); /* releases lock and lease; NULL is allowed */

/* Opens the database of a bundle that IMAGE_SHARED access closed (daemon: truncate, discard, copies). flags: MAP_DB_NO_WAIT. */
int image_db_open(struct image *image, int flags, struct map_db **out);

/* True while nobody can have got hold of the file since image_open, whether he asks for the lock or not. Always true without lease
 * support. Who opens the file only starts to wait, for as long as the kernel lets him (lease-break-time, 45 s); until
 * shortly before the earliest end of that, counted from image_open, the image is still ours; later only if nobody tries. */
bool image_still_ours(const struct image *image);

/* True if somebody is waiting to open the file: the lease is being broken. Without leases nobody can be seen. */
bool image_wanted(const struct image *image);
/* For who keeps an image for long: if nobody wants it, it is from now on, and not only since image_open, that it can have begun to be
 * wanted; see image_still_ours. */
void image_keep(struct image *image);

/* A change of the map, under IMAGE_EXCLUSIVE. begin: on a bundle map_db_begin; on a plain image makes the staging bundle and begins
 * in its database. Use image->db for the puts in between. -EMLINK: the file has another hard link; -EOPNOTSUPP: the file system
 * cannot exchange names (or is a network one): not adopted; -EROFS: image is read-only.
 * commit: makes sure of space for redo targets, checks image_still_ours, or of a plain image !image_wanted (-EBUSY), commits, exchanges names when staging, applies redo,
 * reloads the map. After -EINPROGRESS the change is committed but redo could not be applied yet: the next open does it;
 * image is read-only and shows the new state. But if image->in_doubt is set, the host has failed so that it cannot be
 * found out whether the change is committed: image is read-only, still shows the old state and has no database any
 * more; the next open finds the one state or the other. Every other error leaves the old state, and the transaction is
 * rolled back.
 * rollback: also removes the staging bundle; without a transaction it does nothing. */
int image_begin(struct image *image);
int image_commit(struct image *image);
void image_rollback(struct image *image);

/* Whether image_begin would refuse to adopt a plain image, as far as looking tells: its -EMLINK or -EOPNOTSUPP; otherwise 0. */
int image_may_adopt(const struct image *image);

/* Brings back what the last run changed. -ENODATA: nothing to undo, or something was written since; otherwise like image_commit. */
int image_undo(struct image *image, const struct run_record *run);

/* A bundle whose map is the identity becomes a plain file again (the reverse exchange). -EINVAL if it is not. History is lost. */
int image_make_plain(struct image *image);

/* Removes what crashes have left in a directory: ".NAME.zcfs-XXXXXX" entries of adoptions, removals and the like, after comparing inodes and
 * only under the data inode's lock. What it does not recognise stays. Counts in *removed and *left (either may be NULL). */
int image_clean_stale(const struct io *io, int parent_fd, unsigned int *removed, unsigned int *left);

/* Removes a bundle by name as atomically as unlink removes a file: renamed away first, so a crash leaves it or a stale entry.
 * The caller holds whatever keeps others from the name. */
int image_unlink_bundle(const struct io *io, int parent_fd, const char *name);

/* Renames over an existing image (file or bundle on either side, at least one bundle), as atomically as rename(2): a crash leaves
 * the old state or the new one (after image_clean_stale). Takes both locks shared for a moment: -EAGAIN while a tool works on either;
 * -EBUSY is the host's, for a name that is a mount point.
 * -EISDIR, -ENOTDIR where one side is a directory that is no bundle. */
int image_rename_replace(const struct io *io, int old_parent_fd, const char *old_name, int new_parent_fd, const char *new_name);

/* Reads what the guest sees, [guest_off, guest_off + length) below the image's size, overlay included. 0 or -errno. */
int image_read(const struct image *image, void *buffer, size_t length, uint64_t guest_off);

#endif

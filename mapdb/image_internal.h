/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the parts of image (image_*.c) share with each other and with those that work on an open image (check, plain); not for other
 * directories.
 */
#ifndef ZCFS_IMAGE_INTERNAL_H
#define ZCFS_IMAGE_INTERNAL_H

#include <unistd.h>

#include "mapdb/hidden_name.h"
#include "mapdb/image.h"

/* In a bundle under construction: to try whether the file system exchanges a file with a directory. */
#define BUNDLE_PROBE_NAME "probe"

static inline bool same_inode(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Sleeps some ms. -EINTR. */
int pause_ms(unsigned int ms);

/* Opens a regular file to lock or to use it. Never blocks: a lease that another holds on the file makes it -EAGAIN. He is left alone,
 * as far as /proc/locks tells of the lease. -EUCLEAN: not a regular file. The descriptor. */
int data_open(const struct io *io, int dir_fd, const char *name, int flags);
/* Opens the image's data file; for IMAGE_SHARED another's lease is broken: he is told, and loses it after lease-break-time. If wait is
 * set, repeated while there is a lease; otherwise -EBUSY, for IMAGE_UNLOCKED -EAGAIN. */
int data_open_wait(struct image *image, int dir_fd, const char *name, int flags, bool wait);
/* A descriptor with which nothing can be done but fstat(), and that breaks no lease (O_PATH). -EUCLEAN: not a regular file. */
int data_open_path(const struct io *io, int dir_fd, const char *name);

/* flock() with LOCK_SH or LOCK_EX; -EBUSY without wait, -EINTR with. *waited is set if the lock was not free at once. */
int data_lock(int data_fd, int operation, bool wait, bool *waited);

/* A write lease on image->data_fd: 0 and image->leased; where there are none, 0 and not leased. -EBUSY: somebody has the file
 * open, also after patience_ms. */
int data_lease(struct image *image, unsigned int patience_ms);

/* Opens the directory of a bundle. The descriptor. */
int bundle_open(const struct io *io, int parent_fd, const char *name);

/* ---- names ---- */

#define JOURNAL_NAME MAP_DB_NAME "-journal"

int name_stat(int dir_fd, const char *name, struct stat *status); /* lstat; 0 or -errno */

/* What is behind a name: the inode, and the one with the bytes. */
struct found {
	bool exists;
	bool is_directory;
	bool has_data;    /* a regular file with the bytes of an image */
	struct stat self; /* what the name is */
	struct stat data; /* what has the bytes: the file itself, or data in the directory */
};

/* 0 also if there is nothing: see found->exists. */
int names_find(const struct io *io, int parent_fd, const char *name, struct found *found);

/* A name and the lock on its bytes. */
struct locked {
	struct found found;
	int fd; /* -1: nothing to lock */
};

static inline void cleanup_locked(struct locked *locked)
{
	if (locked->fd >= 0)
		close(locked->fd);
}
#define cleanup_lock __attribute__((cleanup(cleanup_locked)))
/* Finds and locks; looks again under the lock. -EAGAIN: another has the lock, or it is not the same any more. held: see names_clean. */
int names_find_locked(const struct io *io, int parent_fd, const char *name, const struct stat *held, int operation,
		      struct locked *locked);

/* Calls visit for each hidden entry (see image_stale.c) of name, or of every name if NULL, until one returns other than 0, which is
 * returned; otherwise 0 or -errno. Changes nothing. name is empty if it is not known (see complete_name). */
typedef int (*names_visit)(void *context, const char *entry, const char *name);
int names_visit_hidden(int parent_fd, const char *only_name, names_visit visit, void *context);

/* 1 if a hidden entry is the file with that inode: the second link that an adoption cut short leaves; 0 if none is; -errno. */
int names_has_hidden_link(int parent_fd, const struct stat *data);

struct cleaned {
	unsigned int removed, left; /* entries */
	int error;                  /* the first that has kept one from being removed; 0: those that are left are not ours */
};

/* image_clean_stale, but only for entries that belong to only_name (NULL: all). held: status of a data inode whose LOCK_EX the caller
 * has already (NULL: none), which is then neither opened nor locked again. */
int names_clean(const struct io *io, int parent_fd, const char *only_name, const struct stat *held,
		struct cleaned *cleaned);

/* Makes the name of a hidden entry that is free, with KIND ("", REMOVED_MARK or PLAIN_MARK) before the random part.
 * -ENOMEM etc. */
int names_make_stale(int parent_fd, const char *name, const char *kind, char **out);

/* Removes what belongs into a bundle, data first; then, after a sync, map.db, and a journal after that. */
int names_empty_bundle(const struct io *io, int bundle_fd);
/* The same and the directory, which is known to be a bundle (or a part of one). Does not sync the parent. */
int names_remove_bundle(const struct io *io, int parent_fd, const char *name);

/* True on file systems on which names or bytes change under other hosts, or whose exchange and leases nobody has tried. */
bool image_is_on_network(const struct image *image);

/* Before COMMIT: -ENOSPC if the host might not have the room that redo and the end of the change need after it. */
int image_check_room(const struct image *image, const struct redo_overlay *redo);

/* Exchanges the image's name and a hidden name, of which one is the image's file or bundle, whose inode is expected. If the name has
 * come to mean something else at the last moment, undoes it: -ESTALE. */
int image_exchange_checked(const struct image *image, const char *hidden, const struct stat *expected);

/* The map that a valid undo goes back to; *out is NULL if there is none. */
int image_read_undo_map(const struct image *image, struct image_map **out);

#endif

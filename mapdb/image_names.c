/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The names of images in a store: what they mean, removal, replacement. What interruptions leave is in image_stale.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

#include "mapdb/cleanup.h"
#include "mapdb/image_internal.h"

bool image_name_reserved(const char *name)
{
	return !strcmp(name, MAP_DB_NAME) || (name[0] == '.' && strstr(name + 1, "zcfs-"));
}

bool image_names_fold(int bundle_fd, const struct stat *db)
{
	struct stat status;

	return fstatat(bundle_fd, "MAP.DB", &status, AT_SYMLINK_NOFOLLOW) == 0 && same_inode(&status, db);
}

int bundle_open(const struct io *io, int parent_fd, const char *name)
{
	return io->open(io, parent_fd, name, O_RDONLY | O_DIRECTORY, 0);
}

int name_stat(int dir_fd, const char *name, struct stat *status)
{
	return fstatat(dir_fd, name, status, AT_SYMLINK_NOFOLLOW) < 0 ? io_error() : 0;
}

/* ---- classification ---- */

#define CLASSIFY_TRIES 8

static int classify_bundle(const struct io *io, int parent_fd, int bundle_fd, struct stat *status)
{
	struct map_db *db;
	struct map_state state;
	int rc = name_stat(bundle_fd, BUNDLE_DATA_NAME, status);

	if (rc < 0)
		return rc == -ENOENT ? -EUCLEAN : rc;
	if (!S_ISREG(status->st_mode))
		return -EUCLEAN;
	if (status->st_nlink != 1) {
		rc = names_has_hidden_link(parent_fd, status);
		if (rc <= 0)
			return rc < 0 ? rc : -EUCLEAN;
	}
	rc = map_db_open(io, bundle_fd, MAP_DB_READ_ONLY | MAP_DB_NO_WAIT, &db);
	if (rc < 0)
		return rc == -EMEDIUMTYPE ? -EUCLEAN : rc;
	rc = map_db_read_state(db, &state);
	map_db_close(db);
	if (rc == 0)
		status->st_size = (off_t)state.size;
	return rc;
}

static int classify(const struct io *io, int parent_fd, const char *name, enum name_kind *kind, struct stat *status)
{
	struct stat map_status;
	int rc = name_stat(parent_fd, name, status);

	if (rc < 0)
		return rc;
	*kind = S_ISREG(status->st_mode) ? NAME_FILE : NAME_OTHER;
	if (!S_ISDIR(status->st_mode))
		return 0;
	cleanup_fd int bundle_fd = bundle_open(io, parent_fd, name);
	if (bundle_fd == -EACCES) /* a directory like any other that we may not look into */
		return 0;
	if (bundle_fd < 0)
		return bundle_fd;
	rc = name_stat(bundle_fd, MAP_DB_NAME, &map_status);
	if (rc < 0)
		return rc == -ENOENT || rc == -EACCES ? 0 : rc;
	*kind = NAME_BUNDLE;
	return classify_bundle(io, parent_fd, bundle_fd, status);
}

int image_classify(const struct io *io, int parent_fd, const char *name, enum name_kind *kind, struct stat *status)
{
	int rc = -ENOTDIR;

	/* What was a directory is a file: names were exchanged between two looks. */
	for (int i = 0; i < CLASSIFY_TRIES && rc == -ENOTDIR; i++)
		rc = classify(io, parent_fd, name, kind, status);
	return rc;
}

/* ---- removal ---- */

/* A name in a bundle, file or (as a probe for RENAME_EXCHANGE may leave it) directory. */
static int remove_member(const struct io *io, int bundle_fd, const char *name)
{
	int rc = io->unlink(io, bundle_fd, name, 0);

	if (rc == -EISDIR)
		rc = io->unlink(io, bundle_fd, name, AT_REMOVEDIR);
	return rc == -ENOENT ? 0 : rc;
}

int names_empty_bundle(const struct io *io, int bundle_fd)
{
	struct stat status;
	int rc = remove_member(io, bundle_fd, BUNDLE_DATA_NAME);

	if (rc == 0)
		rc = remove_member(io, bundle_fd, BUNDLE_PROBE_NAME);
	/* While anything is left, it must be seen that this was a bundle, also after a crash. */
	if (rc == 0)
		rc = io->fsync(io, bundle_fd);
	if (rc == 0)
		rc = remove_member(io, bundle_fd, MAP_DB_NAME);
	/* Of a database that was not made to the end only the journal says so. */
	if (rc < 0 || name_stat(bundle_fd, JOURNAL_NAME, &status) == -ENOENT)
		return rc;
	rc = io->fsync(io, bundle_fd);
	return rc == 0 ? remove_member(io, bundle_fd, JOURNAL_NAME) : rc;
}

int names_remove_bundle(const struct io *io, int parent_fd, const char *name)
{
	int fd = bundle_open(io, parent_fd, name);

	if (fd < 0)
		return fd;
	int rc = names_empty_bundle(io, fd);
	io->close(io, fd);
	return rc == 0 ? io->unlink(io, parent_fd, name, AT_REMOVEDIR) : rc;
}

int image_unlink_bundle(const struct io *io, int parent_fd, const char *name)
{
	cleanup_free char *stale = NULL;
	int rc = names_make_stale(parent_fd, name, REMOVED_MARK, &stale);

	if (rc == 0)
		rc = io->rename(io, parent_fd, name, parent_fd, stale, RENAME_NOREPLACE);
	if (rc < 0)
		return rc;
	/* The data may go only when it is certain that the name does not come back. */
	if (io->fsync(io, parent_fd) == 0)
		names_remove_bundle(io, parent_fd, stale);
	return 0; /* removed as far as anyone can see; the rest is image_clean_stale's */
}

/* ---- what is where: the inode behind a name, and its lock ---- */

int names_find(const struct io *io, int parent_fd, const char *name, struct found *found)
{
	*found = (struct found){0};
	int rc = name_stat(parent_fd, name, &found->self);
	if (rc < 0)
		return rc == -ENOENT ? 0 : rc;
	found->exists = true;
	found->is_directory = S_ISDIR(found->self.st_mode);
	if (!found->is_directory) {
		found->data = found->self;
	} else {
		cleanup_fd int fd = bundle_open(io, parent_fd, name);
		if (fd < 0)
			return fd;
		rc = name_stat(fd, BUNDLE_DATA_NAME, &found->data);
		if (rc < 0)
			return rc == -ENOENT ? 0 : rc;
	}
	found->has_data = S_ISREG(found->data.st_mode);
	return 0;
}

/* Opens and locks the bytes behind a name, if there are any: *locked_fd, else -1. -EAGAIN. */
static int lock_found(const struct io *io, int parent_fd, const char *name, const struct found *found,
                      const struct stat *held, int operation, int *locked_fd)
{
	bool waited;
	cleanup_fd int dir_fd = -1, fd = -1;

	*locked_fd = -1;
	if (!found->has_data || (held && same_inode(held, &found->data)))
		return 0;
	if (found->is_directory) {
		dir_fd = bundle_open(io, parent_fd, name);
		if (dir_fd < 0)
			return dir_fd;
		fd = data_open(io, dir_fd, BUNDLE_DATA_NAME, O_RDONLY);
	} else {
		fd = data_open(io, parent_fd, name, O_RDONLY);
	}
	int rc = fd < 0 ? fd : data_lock(fd, operation, false, &waited);
	if (rc == 0)
		*locked_fd = steal_fd(&fd);
	return rc == -EBUSY ? -EAGAIN : rc; /* as for a lease: somebody is at work */
}

int names_find_locked(const struct io *io, int parent_fd, const char *name, const struct stat *held, int operation,
                      struct locked *locked)
{
	struct found again;

	locked->fd = -1;
	int rc = names_find(io, parent_fd, name, &locked->found);
	if (rc < 0)
		return rc;
	rc = lock_found(io, parent_fd, name, &locked->found, held, operation, &locked->fd);
	if (rc < 0)
		return rc;
	rc = names_find(io, parent_fd, name, &again);
	if (rc == 0 && (again.exists != locked->found.exists || again.has_data != locked->found.has_data ||
	                !same_inode(&again.self, &locked->found.self) || !same_inode(&again.data, &locked->found.data)))
		rc = -EAGAIN;
	return rc;
}

/* ---- replacement ---- */

struct replacement {
	const struct io *io;
	int old_parent_fd, new_parent_fd;
	const char *old_name, *new_name;
	char marker[NAME_LENGTH_MAX + 1];
};

/* As rename(2) would see it, with bundles as regular files. */
static int check_kinds(const struct io *io, const struct replacement *r)
{
	enum name_kind old_kind, new_kind;
	struct stat old_status, new_status;
	int rc = image_classify(io, r->old_parent_fd, r->old_name, &old_kind, &old_status);

	if (rc < 0 && rc != -EUCLEAN)
		return rc;
	bool old_directory = rc == 0 && old_kind == NAME_OTHER && S_ISDIR(old_status.st_mode);
	rc = image_classify(io, r->new_parent_fd, r->new_name, &new_kind, &new_status);
	if (rc < 0 && rc != -EUCLEAN)
		return rc;
	bool new_directory = rc == 0 && new_kind == NAME_OTHER && S_ISDIR(new_status.st_mode);
	if (new_directory)
		return -EISDIR;
	return old_directory ? -ENOTDIR : 0;
}

static void make_marker(struct replacement *r, const struct stat *old_status, const struct stat *new_status)
{
	char suffix[sizeof REPLACE_MARK "0123456789abcdef-0123456789abcdef"];

	snprintf(suffix, sizeof suffix, REPLACE_MARK "%" PRIx64 "-%" PRIx64, (uint64_t)old_status->st_ino,
	         (uint64_t)new_status->st_ino);
	hidden_name_make(r->new_name, suffix, r->marker);
}

/* First the replacement goes to a hidden name that says what it is for (from here on image_clean_stale goes forward),
 * then it is exchanged with what it replaces, then that is removed: each step leaves names from which the next one can
 * be told. */
static int replace(const struct replacement *r, const struct found *victim)
{
	const struct io *io = r->io;
	int rc = io->rename(io, r->old_parent_fd, r->old_name, r->new_parent_fd, r->marker, RENAME_NOREPLACE);

	if (rc < 0)
		return rc;
	rc = io->fsync(io, r->new_parent_fd); /* as before every exchange: see image_change.c */
	if (rc == 0)
		rc = io->rename(io, r->new_parent_fd, r->marker, r->new_parent_fd, r->new_name, RENAME_EXCHANGE);
	if (rc < 0) {
		io->rename(io, r->new_parent_fd, r->marker, r->old_parent_fd, r->old_name, RENAME_NOREPLACE);
		return rc == -EINVAL ? -EOPNOTSUPP : rc;
	}
	/* Nothing is lost while this is not durable. */
	if (io->fsync(io, r->new_parent_fd) < 0)
		return 0;
	if (r->old_parent_fd != r->new_parent_fd && io->fsync(io, r->old_parent_fd) < 0)
		return 0;
	if (victim->is_directory)
		names_remove_bundle(io, r->new_parent_fd, r->marker);
	else
		io->unlink(io, r->new_parent_fd, r->marker, 0);
	return 0;
}

int image_rename_replace(const struct io *io, int old_parent_fd, const char *old_name, int new_parent_fd,
                         const char *new_name)
{
	struct replacement r = {.io = io,
	                        .old_parent_fd = old_parent_fd,
	                        .new_parent_fd = new_parent_fd,
	                        .old_name = old_name,
	                        .new_name = new_name};
	cleanup_lock struct locked replacement = {.fd = -1}, victim = {.fd = -1};

	/* Shared locks: the daemon may have both open, image_clean_stale stays away, and a tool at work must not lose
	 * the name. */
	int rc = names_find_locked(io, old_parent_fd, old_name, NULL, LOCK_SH, &replacement);
	if (rc == 0 && !replacement.found.exists)
		rc = -ENOENT;
	if (rc == 0)
		rc = names_find_locked(io, new_parent_fd, new_name, NULL, LOCK_SH, &victim);
	if (rc < 0)
		return rc;
	if (!victim.found.exists || (!replacement.found.is_directory && !victim.found.is_directory))
		return io->rename(io, old_parent_fd, old_name, new_parent_fd, new_name, 0);
	if (same_inode(&replacement.found.self, &victim.found.self))
		return 0;
	make_marker(&r, &replacement.found.self, &victim.found.self);
	rc = check_kinds(io, &r);
	return rc == 0 ? replace(&r, &victim.found) : rc;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The names of images in a store, and the hidden names that changes of them leave when they are interrupted.
 *
 * Every hidden name is ".NAME.zcfs-SUFFIX" in the directory of NAME. The suffix tells what it is:
 *
 *     XXXXXX           adoption or its reverse. A directory: a bundle that NAME has not become, or has been. A file:
 * the link that NAME has been, or will be. Either way its data is redundant if NAME has the same inode. removed-XXXXXX
 * a bundle that was removed. Nothing in it is wanted. replace-NEW-OLD  a replacement of NAME under way
 * (image_rename_replace); NEW and OLD are inode numbers in hex of the two things themselves. If NEW is here and OLD is
 * at NAME, they must be exchanged; if it is the other way round, what is here can go. In any other case this is a copy
 * of a store, and nobody's business.
 *
 * Six random letters; no clash matters, names are taken with mkdir, link or RENAME_NOREPLACE.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>

#include "mapdb/cleanup.h"
#include "mapdb/image_internal.h"

#define HIDDEN_MARK     ".zcfs-"
#define REMOVED_MARK    "removed-"
#define REPLACE_MARK    "replace-"
#define JOURNAL_NAME    MAP_DB_NAME "-journal"
#define RANDOM_LETTERS  6
#define NAME_LENGTH_MAX 255 /* NAME_MAX of every Linux file system that matters */

bool image_name_reserved(const char *name)
{
	return !strcmp(name, MAP_DB_NAME) || (name[0] == '.' && strstr(name + 1, "zcfs-"));
}

int bundle_open(const struct io *io, int parent_fd, const char *name)
{
	return io->open(io, parent_fd, name, O_RDONLY | O_DIRECTORY, 0);
}

static int stat_at(int dir_fd, const char *name, struct stat *status)
{
	return fstatat(dir_fd, name, status, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* ---- hidden names ---- */

enum hidden_kind { HIDDEN_STAGING, HIDDEN_REMOVED, HIDDEN_REPLACE };

struct hidden {
	enum hidden_kind kind;
	char name[NAME_LENGTH_MAX + 1]; /* NAME */
	uint64_t new_inode, old_inode;  /* HIDDEN_REPLACE */
};

static bool is_random_part(const char *text)
{
	size_t length = 0;

	while (isalnum((unsigned char)text[length]))
		length++;
	return length == RANDOM_LETTERS && text[length] == '\0';
}

/* Reads an entry's name; false if it is none of ours. */
static bool parse_hidden(const char *entry, struct hidden *hidden)
{
	const char *mark = NULL;
	int consumed = 0;

	for (const char *p = entry; (p = strstr(p, HIDDEN_MARK)); p++)
		mark = p;
	if (entry[0] != '.' || !mark || mark <= entry + 1 || strlen(entry) > NAME_LENGTH_MAX)
		return false;
	*hidden = (struct hidden){.kind = HIDDEN_STAGING};
	memcpy(hidden->name, entry + 1, (size_t)(mark - entry - 1));

	const char *suffix = mark + strlen(HIDDEN_MARK);
	if (is_random_part(suffix))
		return true;
	if (!strncmp(suffix, REMOVED_MARK, strlen(REMOVED_MARK))) {
		hidden->kind = HIDDEN_REMOVED;
		return is_random_part(suffix + strlen(REMOVED_MARK));
	}
	hidden->kind = HIDDEN_REPLACE;
	return sscanf(suffix, REPLACE_MARK "%" SCNx64 "-%" SCNx64 "%n", &hidden->new_inode, &hidden->old_inode,
	              &consumed) == 2 &&
	       suffix[consumed] == '\0';
}

int names_make_stale(int parent_fd, const char *name, const char *kind, char **out)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
	unsigned char noise[RANDOM_LETTERS];
	char random[RANDOM_LETTERS + 1] = {0};
	struct stat status;

	for (;;) {
		if (getrandom(noise, sizeof noise, 0) != sizeof noise)
			return -EIO;
		for (size_t i = 0; i < sizeof noise; i++)
			random[i] = letters[noise[i] % (sizeof letters - 1)];
		if (asprintf(out, ".%s" HIDDEN_MARK "%s%s", name, kind, random) < 0)
			return -ENOMEM;
		if (strlen(*out) <= NAME_LENGTH_MAX && stat_at(parent_fd, *out, &status) == -ENOENT)
			return 0;
		bool too_long = strlen(*out) > NAME_LENGTH_MAX;
		free(*out);
		*out = NULL;
		if (too_long)
			return -ENAMETOOLONG;
	}
}

/* ---- classification ---- */

/* True if a hidden entry of name is the file with that inode: the second link that an adoption cut short leaves. */
static bool has_hidden_link(int parent_fd, const char *name, const struct stat *data)
{
	bool found = false;
	int fd = openat(parent_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	struct hidden hidden;
	struct stat status;

	if (!directory) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	while (!found && (entry = readdir(directory)))
		found = parse_hidden(entry->d_name, &hidden) && !strcmp(hidden.name, name) &&
		        stat_at(parent_fd, entry->d_name, &status) == 0 && same_inode(&status, data);
	closedir(directory);
	return found;
}

static int classify_bundle(const struct io *io, int parent_fd, const char *name, int bundle_fd, struct stat *status)
{
	struct map_db *db;
	struct map_state state;
	int rc = stat_at(bundle_fd, BUNDLE_DATA_NAME, status);

	if (rc < 0)
		return rc == -ENOENT ? -EUCLEAN : rc;
	if (!S_ISREG(status->st_mode))
		return -EUCLEAN;
	if (status->st_nlink != 1 && !has_hidden_link(parent_fd, name, status))
		return -EUCLEAN;
	rc = map_db_open(io, bundle_fd, true, &db);
	if (rc < 0)
		return rc == -EMEDIUMTYPE ? -EUCLEAN : rc;
	rc = map_db_read_state(db, &state);
	map_db_close(db);
	if (rc == 0)
		status->st_size = (off_t)state.size;
	return rc;
}

int image_classify(const struct io *io, int parent_fd, const char *name, enum name_kind *kind, struct stat *status)
{
	struct stat map_status;
	int rc = stat_at(parent_fd, name, status);

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
	rc = stat_at(bundle_fd, MAP_DB_NAME, &map_status);
	if (rc < 0)
		return rc == -ENOENT || rc == -EACCES ? 0 : rc;
	*kind = NAME_BUNDLE;
	return classify_bundle(io, parent_fd, name, bundle_fd, status);
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

int names_remove_bundle(const struct io *io, int parent_fd, const char *name)
{
	static const char *const members[] = {BUNDLE_DATA_NAME, JOURNAL_NAME, MAP_DB_NAME, BUNDLE_PROBE_NAME};
	int fd = bundle_open(io, parent_fd, name);
	int rc = 0;

	if (fd < 0)
		return fd;
	for (size_t i = 0; i < sizeof members / sizeof members[0] && rc == 0; i++)
		rc = remove_member(io, fd, members[i]);
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

struct found {
	bool exists;
	bool is_directory;
	bool has_data;    /* a regular file with the bytes of an image */
	struct stat self; /* what the name is */
	struct stat data; /* what has the bytes: the file itself, or data in the directory */
};

static int find(const struct io *io, int parent_fd, const char *name, struct found *found)
{
	*found = (struct found){0};
	int rc = stat_at(parent_fd, name, &found->self);
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
		rc = stat_at(fd, BUNDLE_DATA_NAME, &found->data);
		if (rc < 0)
			return rc == -ENOENT ? 0 : rc;
	}
	found->has_data = S_ISREG(found->data.st_mode);
	return 0;
}

/* Opens and locks the bytes behind a name, if there are any: *locked_fd, else -1. -EBUSY. */
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
	return rc == -EAGAIN ? -EBUSY : rc; /* a lease: somebody is at work */
}

/* A name and the lock on its bytes. */
struct locked {
	struct found found;
	int fd; /* -1: nothing to lock */
};

static void cleanup_locked(struct locked *locked)
{
	if (locked->fd >= 0)
		close(locked->fd);
}
#define cleanup_lock __attribute__((cleanup(cleanup_locked)))

/* Finds and locks; looks again under the lock. */
static int find_locked(const struct io *io, int parent_fd, const char *name, const struct stat *held, int operation,
                       struct locked *locked)
{
	struct found again;

	locked->fd = -1;
	int rc = find(io, parent_fd, name, &locked->found);
	if (rc < 0)
		return rc;
	rc = lock_found(io, parent_fd, name, &locked->found, held, operation, &locked->fd);
	if (rc < 0)
		return rc;
	rc = find(io, parent_fd, name, &again);
	if (rc == 0 && (again.exists != locked->found.exists || again.has_data != locked->found.has_data ||
	                !same_inode(&again.self, &locked->found.self) || !same_inode(&again.data, &locked->found.data)))
		rc = -EBUSY;
	return rc;
}

/* ---- cleaning ---- */

struct cleaner {
	const struct io *io;
	int parent_fd;
	const struct stat *held;
};

static int remove_entry(const struct cleaner *cleaner, const char *entry, const struct found *found)
{
	int rc = found->is_directory ? names_remove_bundle(cleaner->io, cleaner->parent_fd, entry)
	                             : cleaner->io->unlink(cleaner->io, cleaner->parent_fd, entry, 0);

	return rc == 0 ? cleaner->io->fsync(cleaner->io, cleaner->parent_fd) : rc;
}

/* An adoption or its reverse, before or after the exchange: redundant if the name has the same inode. */
static int clean_staging(const struct cleaner *cleaner, const char *entry, const struct hidden *hidden)
{
	const struct io *io = cleaner->io;
	cleanup_lock struct locked self = {.fd = -1}, owner = {.fd = -1};

	int rc = find_locked(io, cleaner->parent_fd, entry, cleaner->held, LOCK_EX, &self);
	if (rc < 0)
		return rc;
	if (self.found.exists && self.found.is_directory && !self.found.has_data) {
		/* Not linked yet: the lock of whoever builds this is on the name's inode. */
		rc = find_locked(io, cleaner->parent_fd, hidden->name, cleaner->held, LOCK_EX, &owner);
		return rc < 0 ? rc : remove_entry(cleaner, entry, &self.found);
	}
	rc = find(io, cleaner->parent_fd, hidden->name, &owner.found);
	if (rc < 0)
		return rc;
	if (!self.found.has_data || !owner.found.has_data || !same_inode(&self.found.data, &owner.found.data) ||
	    self.found.is_directory == owner.found.is_directory)
		return -EEXIST;
	/* The exchange that made it redundant must not come undone. */
	rc = io->fsync(io, cleaner->parent_fd);
	return rc < 0 ? rc : remove_entry(cleaner, entry, &self.found);
}

static int clean_removed(const struct cleaner *cleaner, const char *entry)
{
	cleanup_lock struct locked self = {.fd = -1};

	int rc = find_locked(cleaner->io, cleaner->parent_fd, entry, cleaner->held, LOCK_EX, &self);
	if (rc < 0)
		return rc;
	if (!self.found.is_directory)
		return -EEXIST;
	rc = cleaner->io->fsync(cleaner->io, cleaner->parent_fd);
	return rc < 0 ? rc : remove_entry(cleaner, entry, &self.found);
}

/* A replacement cut short: finishes it. */
static int clean_replace(const struct cleaner *cleaner, const char *entry, const struct hidden *hidden)
{
	const struct io *io = cleaner->io;
	cleanup_lock struct locked self = {.fd = -1}, owner = {.fd = -1};

	int rc = find_locked(io, cleaner->parent_fd, entry, cleaner->held, LOCK_EX, &self);
	if (rc == 0)
		rc = find_locked(io, cleaner->parent_fd, hidden->name, cleaner->held, LOCK_EX, &owner);
	if (rc < 0)
		return rc;
	if (!self.found.exists || !owner.found.exists)
		return -EEXIST;
	if (self.found.self.st_ino == hidden->new_inode && owner.found.self.st_ino == hidden->old_inode) {
		rc = io->rename(io, cleaner->parent_fd, entry, cleaner->parent_fd, hidden->name, RENAME_EXCHANGE);
		self.found.is_directory = owner.found.is_directory;
	} else if (self.found.self.st_ino != hidden->old_inode || owner.found.self.st_ino != hidden->new_inode) {
		return -EEXIST;
	}
	if (rc == 0)
		rc = io->fsync(io, cleaner->parent_fd);
	return rc < 0 ? rc : remove_entry(cleaner, entry, &self.found);
}

static int clean_entry(const struct cleaner *cleaner, const char *entry, const struct hidden *hidden)
{
	switch (hidden->kind) {
	case HIDDEN_STAGING:
		return clean_staging(cleaner, entry, hidden);
	case HIDDEN_REMOVED:
		return clean_removed(cleaner, entry);
	case HIDDEN_REPLACE:
		return clean_replace(cleaner, entry, hidden);
	}
	return -EEXIST;
}

struct name_list {
	size_t count;
	char **names;
};

static void cleanup_name_list(struct name_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		free(list->names[i]);
	free(list->names);
}

static int name_list_add(struct name_list *list, const char *name)
{
	char **names = reallocarray(list->names, list->count + 1, sizeof *names);

	if (!names)
		return -ENOMEM;
	list->names = names;
	names[list->count] = strdup(name);
	if (!names[list->count])
		return -ENOMEM;
	list->count++;
	return 0;
}

/* Collected first: the directory changes while it is cleaned. */
static int list_hidden(int parent_fd, const char *only_name, struct name_list *list)
{
	int fd = openat(parent_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	struct hidden hidden;
	int rc = 0;

	if (!directory) {
		rc = -errno;
		if (fd >= 0)
			close(fd);
		return rc;
	}
	while (rc == 0 && (entry = readdir(directory))) {
		if (parse_hidden(entry->d_name, &hidden) && (!only_name || !strcmp(only_name, hidden.name)))
			rc = name_list_add(list, entry->d_name);
	}
	closedir(directory);
	return rc;
}

int names_clean(const struct io *io, int parent_fd, const char *only_name, const struct stat *held,
                unsigned int *removed, unsigned int *left)
{
	struct cleaner cleaner = {.io = io, .parent_fd = parent_fd, .held = held};
	__attribute__((cleanup(cleanup_name_list))) struct name_list list = {0};
	unsigned int removed_count = 0, left_count = 0;
	int rc = list_hidden(parent_fd, only_name, &list);

	for (size_t i = 0; i < list.count && rc == 0; i++) {
		struct hidden hidden;

		if (!parse_hidden(list.names[i], &hidden))
			continue;
		if (clean_entry(&cleaner, list.names[i], &hidden) == 0)
			removed_count++;
		else
			left_count++;
	}
	if (removed)
		*removed = removed_count;
	if (left)
		*left = left_count;
	return rc;
}

int image_clean_stale(const struct io *io, int parent_fd, unsigned int *removed, unsigned int *left)
{
	return names_clean(io, parent_fd, NULL, NULL, removed, left);
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

static int make_marker(struct replacement *r, const struct stat *old_status, const struct stat *new_status)
{
	int length = snprintf(r->marker, sizeof r->marker, ".%s" HIDDEN_MARK REPLACE_MARK "%" PRIx64 "-%" PRIx64,
	                      r->new_name, (uint64_t)old_status->st_ino, (uint64_t)new_status->st_ino);

	return length < 0 || (size_t)length >= sizeof r->marker ? -ENAMETOOLONG : 0;
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
	rc = io->fsync(io, r->new_parent_fd);
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
	int rc = find_locked(io, old_parent_fd, old_name, NULL, LOCK_SH, &replacement);
	if (rc == 0 && !replacement.found.exists)
		rc = -ENOENT;
	if (rc == 0)
		rc = find_locked(io, new_parent_fd, new_name, NULL, LOCK_SH, &victim);
	if (rc < 0)
		return rc;
	if (!victim.found.exists || (!replacement.found.is_directory && !victim.found.is_directory))
		return io->rename(io, old_parent_fd, old_name, new_parent_fd, new_name, 0);
	if (same_inode(&replacement.found.self, &victim.found.self))
		return 0;
	rc = check_kinds(io, &r);
	if (rc == 0)
		rc = make_marker(&r, &replacement.found.self, &victim.found.self);
	return rc == 0 ? replace(&r, &victim.found) : rc;
}

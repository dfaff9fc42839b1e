/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The hidden names that changes of images leave when they are interrupted, and what is done about them.
 *
 * Every hidden name is ".NAME.zcfs-SUFFIX" in the directory of NAME; hidden_name.h has how NAME is cut if it is too
 * long for that. The suffix tells what it is:
 *
 *     XXXXXX           adoption or its reverse. A directory: a bundle that NAME has not become, or has been. A file:
 *                      the link that NAME has been, or will be. Either way its data is redundant if NAME has the same
 *                      inode, or what NAME has been renamed to since.
 *     removed-XXXXXX   a bundle that was removed. Nothing in it is wanted.
 *     plain-XXXXXX     a bundle becomes a plain image in a file of its own (mapdb/plain.h). A file: the one that
 *                      was not finished, if NAME is still the bundle. A directory: the bundle, if NAME is the file
 *                      already.
 *     replace-NEW-OLD  a replacement of NAME under way (image_rename_replace); NEW and OLD are inode numbers in hex
 *                      of the two things themselves. If NEW is here and OLD is at NAME, they must be exchanged; if
 *                      it is the other way round, what is here can go. In any other case this is a copy of a store,
 *                      and nobody's business.
 *
 * Six random letters; no clash matters, names are taken with mkdir, link or RENAME_NOREPLACE.
 *
 * Whoever may write in a directory can have put anything there under such a name, and it may be root who cleans. So of
 * directories only what is a bundle, or what an interruption leaves of one, is removed: who may rename a directory need
 * not have a right to the files in it. And in a sticky directory nothing takes a name that its owner could not have
 * given it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>

#include "mapdb/cleanup.h"
#include "mapdb/image_internal.h"
#include "mapdb/map_db_schema.h"
#include "mapdb/name_list.h"

/* ---- hidden names ---- */

int names_make_stale(int parent_fd, const char *name, const char *kind, char **out)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
	unsigned char noise[HIDDEN_RANDOM_LETTERS];
	char random[HIDDEN_RANDOM_LETTERS + 1] = {0}, suffix[32], entry[NAME_LENGTH_MAX + 1];
	struct stat status;
	int rc = 0;

	while (rc == 0) {
		if (getrandom(noise, sizeof noise, 0) != sizeof noise)
			return -EIO;
		for (size_t i = 0; i < sizeof noise; i++)
			random[i] = letters[noise[i] % (sizeof letters - 1)];
		snprintf(suffix, sizeof suffix, "%s%s", kind, random);
		hidden_name_make(name, suffix, entry);
		rc = name_stat(parent_fd, entry, &status);
	}
	if (rc != -ENOENT)
		return rc;
	*out = strdup(entry);
	return *out ? 0 : -ENOMEM;
}

struct name_search {
	const struct hidden_name *hidden;
	unsigned int count;
	char name[NAME_LENGTH_MAX + 1];
};

static int note_name(void *context, const char *entry)
{
	struct name_search *search = context;
	struct hidden_name other;

	if (!hidden_name_is_of(search->hidden, entry) || hidden_name_parse(entry, &other))
		return 0;
	if (!strcmp(entry, search->name)) /* moved while the directory is read */
		return 0;
	memcpy(search->name, entry, strlen(entry) + 1);
	return ++search->count > 1;
}

/* If NAME is cut, puts in its place what has that name now; nothing, if that is nothing. -ENOTUNIQ: several have, and
 * nobody can tell whose entry it is; -errno. */
static int complete_name(int parent_fd, struct hidden_name *hidden)
{
	struct name_search search = {.hidden = hidden};
	int rc = hidden->cut ? io_look_entries(parent_fd, note_name, &search) : 0;

	if (!hidden->cut || rc < 0)
		return rc;
	if (search.count > 1)
		search.name[0] = '\0';
	memcpy(hidden->name, search.name, sizeof hidden->name);
	return search.count > 1 ? -ENOTUNIQ : 0;
}

/* ---- listing ---- */

static int list_hidden(void *context, const char *entry, const char *name)
{
	return name_list_add(context, entry);
}

struct hidden_visit {
	int parent_fd;
	const char *only_name;
	names_visit visit;
	void *context;
};

static int visit_if_hidden(void *context, const char *entry)
{
	const struct hidden_visit *visit = context;
	struct hidden_name hidden;

	if (!hidden_name_parse(entry, &hidden) || (visit->only_name && !hidden_name_is_of(&hidden, visit->only_name)))
		return 0;
	int rc = visit->only_name ? 0 : complete_name(visit->parent_fd, &hidden);
	if (rc < 0 && rc != -ENOTUNIQ)
		return rc;
	return visit->visit(visit->context, entry, visit->only_name ? visit->only_name : hidden.name);
}

int names_visit_hidden(int parent_fd, const char *only_name, names_visit visit, void *context)
{
	struct hidden_visit hidden_visit = {parent_fd, only_name, visit, context};

	return io_look_entries(parent_fd, visit_if_hidden, &hidden_visit);
}

struct wanted_inode {
	int parent_fd;
	const struct stat *data;
};

static int is_wanted_inode(void *context, const char *entry, const char *name)
{
	const struct wanted_inode *wanted = context;
	struct stat status;

	int rc = name_stat(wanted->parent_fd, entry, &status);

	if (rc < 0)
		return rc == -ENOENT ? 0 : rc;
	return same_inode(&status, wanted->data);
}

int names_has_hidden_link(int parent_fd, const struct stat *data)
{
	struct wanted_inode wanted = {parent_fd, data};

	return names_visit_hidden(parent_fd, NULL, is_wanted_inode, &wanted);
}

/* ---- cleaning ---- */

struct cleaner {
	const struct io *io;
	int parent_fd;
	const struct stat *held;
};

static int note_stranger(void *context, const char *entry)
{
	static const char *const members[] = {".",          "..",        BUNDLE_DATA_NAME,
	                                      JOURNAL_NAME, MAP_DB_NAME, BUNDLE_PROBE_NAME};

	for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
		if (!strcmp(entry, members[i]))
			return 0;
	}
	return 1;
}

/* The first bytes of a regular file; zeros past its end. */
static bool read_start(const struct io *io, int bundle_fd, const char *name, uint8_t *start, size_t length)
{
	cleanup_fd int fd = data_open(io, bundle_fd, name, O_RDONLY);

	return fd >= 0 && io_pread_full(io, fd, start, length, 0) == 0;
}

static uint32_t big_endian(const uint8_t *bytes)
{
	return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* As far as its header tells, in which no change of a database replaces what is looked at. The two headers:
 * https://www.sqlite.org/fileformat2.html */
static bool is_map_db(const struct io *io, int bundle_fd, const char *name)
{
	static const char magic[16] = "SQLite format 3";
	uint8_t header[72];

	return read_start(io, bundle_fd, name, header, sizeof header) && !memcmp(header, magic, sizeof magic) &&
	       big_endian(header + 68) == MAP_DB_APPLICATION_ID;
}

/* True if the database was being made, whatever has been written of it: the journal takes it back to no pages. */
static bool is_unmade_db(const struct io *io, int bundle_fd)
{
	static const uint8_t magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
	uint8_t header[20];

	return read_start(io, bundle_fd, JOURNAL_NAME, header, sizeof header) && !memcmp(header, magic, sizeof magic) &&
	       big_endian(header + 16) == 0;
}

/* True if there is nothing, or a file without bytes, or a directory, which goes only if it is empty. */
static bool holds_nothing(int bundle_fd, const char *name)
{
	struct stat status;
	int rc = name_stat(bundle_fd, name, &status);

	return rc == -ENOENT || (rc == 0 && (S_ISDIR(status.st_mode) || (S_ISREG(status.st_mode) && !status.st_size)));
}

/* True if the directory is a bundle, or one that was not finished or not removed to the end. Such a one has a map
 * database, perhaps just exchanged with the probe; or the database was not made yet, or was the last to go. Then there
 * is no data, and a journal without a database is nothing. */
static bool is_rest_of_bundle(const struct io *io, int bundle_fd)
{
	struct stat status;

	if (io_look_entries(bundle_fd, note_stranger, NULL) != 0)
		return false;
	if (is_map_db(io, bundle_fd, MAP_DB_NAME) || is_map_db(io, bundle_fd, BUNDLE_PROBE_NAME))
		return true;
	return name_stat(bundle_fd, BUNDLE_DATA_NAME, &status) == -ENOENT &&
	       holds_nothing(bundle_fd, BUNDLE_PROBE_NAME) &&
	       (holds_nothing(bundle_fd, MAP_DB_NAME) || is_unmade_db(io, bundle_fd));
}

/* What is looked at is what is emptied, whatever the name has come to mean meanwhile. */
static int remove_directory(const struct cleaner *cleaner, const char *entry)
{
	const struct io *io = cleaner->io;
	cleanup_fd int fd = bundle_open(io, cleaner->parent_fd, entry);

	if (fd < 0)
		return fd;
	if (!is_rest_of_bundle(io, fd))
		return -EEXIST;
	int rc = names_empty_bundle(io, fd);
	return rc == 0 ? io->unlink(io, cleaner->parent_fd, entry, AT_REMOVEDIR) : rc;
}

static int remove_entry(const struct cleaner *cleaner, const char *entry, const struct found *found)
{
	int rc = found->is_directory ? remove_directory(cleaner, entry)
	                             : cleaner->io->unlink(cleaner->io, cleaner->parent_fd, entry, 0);

	return rc == 0 ? cleaner->io->fsync(cleaner->io, cleaner->parent_fd) : rc;
}

/* A file and a bundle with the same data: before and after an exchange. */
static bool same_image(const struct found *one, const struct found *other)
{
	return one->has_data && other->has_data && same_inode(&one->data, &other->data) &&
	       one->is_directory != other->is_directory;
}

struct owner_search {
	const struct cleaner *cleaner;
	const struct found *self;
};

static int is_owner(void *context, const char *entry)
{
	const struct owner_search *search = context;
	struct found found;

	return !image_name_reserved(entry) && strcmp(entry, ".") != 0 && strcmp(entry, "..") != 0 &&
	       names_find(search->cleaner->io, search->cleaner->parent_fd, entry, &found) == 0 &&
	       same_image(search->self, &found);
}

/* 1 if NAME, or what it has been renamed to, still has what the hidden entry has; 0 if not; -errno. */
static int has_owner(const struct cleaner *cleaner, const struct hidden_name *hidden, const struct found *self)
{
	struct owner_search search = {cleaner, self};
	struct found found;
	int rc = names_find(cleaner->io, cleaner->parent_fd, hidden->name, &found);

	if (rc < 0 || !self->has_data)
		return rc;
	return same_image(self, &found) ? 1 : io_look_entries(cleaner->parent_fd, is_owner, &search);
}

/* An adoption or its reverse, before or after the exchange. */
static int clean_staging(const struct cleaner *cleaner, const char *entry, const struct hidden_name *hidden)
{
	const struct io *io = cleaner->io;
	cleanup_lock struct locked self = {.fd = -1}, owner = {.fd = -1};

	int rc = names_find_locked(io, cleaner->parent_fd, entry, cleaner->held, LOCK_EX, &self);
	if (rc < 0)
		return rc;
	if (self.found.exists && self.found.is_directory && !self.found.has_data) {
		/* Not linked yet: the lock of whoever builds this is on the name's inode. */
		rc = names_find_locked(io, cleaner->parent_fd, hidden->name, cleaner->held, LOCK_EX, &owner);
		return rc < 0 ? rc : remove_entry(cleaner, entry, &self.found);
	}
	rc = has_owner(cleaner, hidden, &self.found);
	if (rc <= 0)
		return rc < 0 ? rc : -EEXIST;
	/* The exchange that made it redundant must not come undone. */
	rc = io->fsync(io, cleaner->parent_fd);
	return rc < 0 ? rc : remove_entry(cleaner, entry, &self.found);
}

static int clean_removed(const struct cleaner *cleaner, const char *entry)
{
	cleanup_lock struct locked self = {.fd = -1};

	int rc = names_find_locked(cleaner->io, cleaner->parent_fd, entry, cleaner->held, LOCK_EX, &self);
	if (rc < 0)
		return rc;
	if (!self.found.is_directory)
		return -EEXIST;
	rc = cleaner->io->fsync(cleaner->io, cleaner->parent_fd);
	return rc < 0 ? rc : remove_entry(cleaner, entry, &self.found);
}

/* Whether a bundle can be read as it is. */
static bool is_sound(const struct cleaner *cleaner, const char *name)
{
	struct image *image;
	int rc = image_open(cleaner->io, cleaner->parent_fd, name, IMAGE_UNLOCKED, IMAGE_READ_ONLY, 0, &image);

	if (rc == 0)
		image_close(image);
	return rc == 0;
}

/* Before the exchange the name's is the bundle, after it the hidden one, which the image may have outlived as a file
 * that was then adopted: another bundle. Whoever is at work holds the lock of the bundle's data. If the name's bundle
 * has been damaged since, what is hidden may be all that is left of the image: it may have been complete. */
static int clean_plain(const struct cleaner *cleaner, const char *entry, const struct hidden_name *hidden)
{
	const struct io *io = cleaner->io;
	cleanup_lock struct locked self = {.fd = -1}, owner = {.fd = -1};

	int rc = names_find_locked(io, cleaner->parent_fd, hidden->name, cleaner->held, LOCK_EX, &owner);
	if (rc == 0)
		rc = names_find_locked(io, cleaner->parent_fd, entry, cleaner->held, LOCK_EX, &self);
	if (rc < 0)
		return rc;
	/* A bundle that is being removed loses its data first. */
	if (!self.found.exists || !owner.found.has_data || (!self.found.is_directory && !owner.found.is_directory))
		return -EEXIST;
	if (owner.found.is_directory && !is_sound(cleaner, hidden->name))
		return -EUCLEAN;
	rc = io->fsync(io, cleaner->parent_fd);
	return rc < 0 ? rc : remove_entry(cleaner, entry, &self.found);
}

static bool is_image(const struct cleaner *cleaner, const char *entry, const struct found *found)
{
	if (!found->is_directory)
		return S_ISREG(found->self.st_mode);
	cleanup_fd int fd = bundle_open(cleaner->io, cleaner->parent_fd, entry);
	return fd >= 0 && found->has_data && is_map_db(cleaner->io, fd, MAP_DB_NAME);
}

/* In a sticky directory anybody makes entries, also one with the numbers of a replacement, but only who owns an image,
 * or the directory, or is root replaces it. A file with a second link may be theirs and the link anybody's. */
static bool may_replace(const struct cleaner *cleaner, const struct found *new, const struct found *old)
{
	uid_t owner = new->self.st_uid;
	struct stat parent;

	if (fstat(cleaner->parent_fd, &parent) < 0)
		return false;
	if (!(parent.st_mode & S_ISVTX))
		return true;
	return (new->is_directory || new->self.st_nlink == 1) &&
	       (owner == 0 || owner == parent.st_uid || owner == old->self.st_uid);
}

/* True if what has the name now was made after the replacement had begun: by somebody who has removed what was there
 * before, and its inode number was free again. Where the file system does not tell, it was not. */
static bool is_made_since(const struct cleaner *cleaner, const char *name, const struct found *new)
{
	struct statx status;

	if (statx(cleaner->parent_fd, name, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &status) < 0 ||
	    !(status.stx_mask & STATX_BTIME))
		return false;
	if (status.stx_btime.tv_sec != new->self.st_ctim.tv_sec)
		return status.stx_btime.tv_sec > new->self.st_ctim.tv_sec;
	return status.stx_btime.tv_nsec > new->self.st_ctim.tv_nsec;
}

/* A replacement cut short: finishes it. */
static int clean_replace(const struct cleaner *cleaner, const char *entry, const struct hidden_name *hidden)
{
	const struct io *io = cleaner->io;
	cleanup_lock struct locked self = {.fd = -1}, owner = {.fd = -1};

	int rc = names_find_locked(io, cleaner->parent_fd, entry, cleaner->held, LOCK_EX, &self);
	if (rc == 0)
		rc = names_find_locked(io, cleaner->parent_fd, hidden->name, cleaner->held, LOCK_EX, &owner);
	if (rc < 0)
		return rc;
	if (!self.found.exists || !owner.found.exists)
		return -EEXIST;
	if (self.found.self.st_ino == hidden->new_inode && owner.found.self.st_ino == hidden->old_inode) {
		if (!is_image(cleaner, entry, &self.found) || !may_replace(cleaner, &self.found, &owner.found) ||
		    is_made_since(cleaner, hidden->name, &self.found))
			return -EEXIST;
		rc = io->rename(io, cleaner->parent_fd, entry, cleaner->parent_fd, hidden->name, RENAME_EXCHANGE);
		self.found.is_directory = owner.found.is_directory;
	} else if (self.found.self.st_ino != hidden->old_inode || owner.found.self.st_ino != hidden->new_inode) {
		return -EEXIST;
	}
	if (rc == 0)
		rc = io->fsync(io, cleaner->parent_fd);
	return rc < 0 ? rc : remove_entry(cleaner, entry, &self.found);
}

static int clean_entry(const struct cleaner *cleaner, const char *entry, const struct hidden_name *hidden)
{
	switch (hidden->kind) {
	case HIDDEN_STAGING:
		return clean_staging(cleaner, entry, hidden);
	case HIDDEN_REMOVED:
		return clean_removed(cleaner, entry);
	case HIDDEN_PLAIN:
		return clean_plain(cleaner, entry, hidden);
	case HIDDEN_REPLACE:
		return clean_replace(cleaner, entry, hidden);
	}
	return -EEXIST;
}

int names_clean(const struct io *io, int parent_fd, const char *only_name, const struct stat *held,
                struct cleaned *cleaned)
{
	struct cleaner cleaner = {.io = io, .parent_fd = parent_fd, .held = held};
	cleanup_name_list struct name_list list = {0};
	/* Collected first: the directory changes while it is cleaned. */
	int rc = names_visit_hidden(parent_fd, only_name, list_hidden, &list);

	*cleaned = (struct cleaned){0};
	for (size_t i = 0; i < list.count && rc == 0; i++) {
		struct hidden_name hidden;

		if (!hidden_name_parse(list.names[i], &hidden))
			continue;
		int error = complete_name(parent_fd, &hidden);
		if (error == 0)
			error = clean_entry(&cleaner, list.names[i], &hidden);
		cleaned->removed += error == 0;
		cleaned->left += error < 0;
		if (cleaned->error == 0 && error != -EEXIST && error != -ENOTUNIQ)
			cleaned->error = error;
	}
	return rc;
}

int image_clean_stale(const struct io *io, int parent_fd, unsigned int *removed, unsigned int *left)
{
	struct cleaned cleaned;
	int rc = names_clean(io, parent_fd, NULL, NULL, &cleaned);

	if (removed)
		*removed = cleaned.removed;
	if (left)
		*left = cleaned.left;
	return rc;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The hidden names that changes of images leave when they are interrupted, and what is done about them.
 *
 * Every hidden name is ".NAME.zcfs-SUFFIX" in the directory of NAME. The suffix tells what it is:
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
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>

#include "mapdb/cleanup.h"
#include "mapdb/image_internal.h"
#include "mapdb/name_list.h"

#define RANDOM_LETTERS 6

/* ---- hidden names ---- */

enum hidden_kind { HIDDEN_STAGING, HIDDEN_REMOVED, HIDDEN_PLAIN, HIDDEN_REPLACE };

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
	if (!strncmp(suffix, PLAIN_MARK, strlen(PLAIN_MARK))) {
		hidden->kind = HIDDEN_PLAIN;
		return is_random_part(suffix + strlen(PLAIN_MARK));
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
		int rc = strlen(*out) > NAME_LENGTH_MAX ? -ENAMETOOLONG : name_stat(parent_fd, *out, &status);
		if (rc == -ENOENT)
			return 0;
		free(*out);
		*out = NULL;
		if (rc < 0)
			return rc;
	}
}

/* ---- listing ---- */

static int list_hidden(void *context, const char *entry, const char *name)
{
	return name_list_add(context, entry);
}

struct hidden_visit {
	const char *only_name;
	names_visit visit;
	void *context;
};

static int visit_if_hidden(void *context, const char *entry)
{
	const struct hidden_visit *visit = context;
	struct hidden hidden;

	if (!parse_hidden(entry, &hidden) || (visit->only_name && strcmp(visit->only_name, hidden.name) != 0))
		return 0;
	return visit->visit(visit->context, entry, hidden.name);
}

int names_visit_hidden(int parent_fd, const char *only_name, names_visit visit, void *context)
{
	struct hidden_visit hidden_visit = {only_name, visit, context};

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

	return name_stat(wanted->parent_fd, entry, &status) == 0 && same_inode(&status, wanted->data);
}

bool names_has_hidden_link(int parent_fd, const struct stat *data)
{
	struct wanted_inode wanted = {parent_fd, data};

	return names_visit_hidden(parent_fd, NULL, is_wanted_inode, &wanted) > 0;
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
static int has_owner(const struct cleaner *cleaner, const struct hidden *hidden, const struct found *self)
{
	struct owner_search search = {cleaner, self};
	struct found found;
	int rc = names_find(cleaner->io, cleaner->parent_fd, hidden->name, &found);

	if (rc < 0 || !self->has_data)
		return rc;
	return same_image(self, &found) ? 1 : io_look_entries(cleaner->parent_fd, is_owner, &search);
}

/* An adoption or its reverse, before or after the exchange. */
static int clean_staging(const struct cleaner *cleaner, const char *entry, const struct hidden *hidden)
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
static int clean_plain(const struct cleaner *cleaner, const char *entry, const struct hidden *hidden)
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

/* A replacement cut short: finishes it. */
static int clean_replace(const struct cleaner *cleaner, const char *entry, const struct hidden *hidden)
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
	case HIDDEN_PLAIN:
		return clean_plain(cleaner, entry, hidden);
	case HIDDEN_REPLACE:
		return clean_replace(cleaner, entry, hidden);
	}
	return -EEXIST;
}

int names_clean(const struct io *io, int parent_fd, const char *only_name, const struct stat *held,
                unsigned int *removed, unsigned int *left)
{
	struct cleaner cleaner = {.io = io, .parent_fd = parent_fd, .held = held};
	cleanup_name_list struct name_list list = {0};
	unsigned int removed_count = 0, left_count = 0;
	/* Collected first: the directory changes while it is cleaned. */
	int rc = names_visit_hidden(parent_fd, only_name, list_hidden, &list);

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

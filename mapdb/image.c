/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * image: finding, locking, loading and reading. Changing is in image_change.c, names are in image_names.c.
 */
#include "mapdb/image.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

#include "mapdb/cleanup.h"
#include "mapdb/image_internal.h"

#define OPEN_TRIES 100 /* each means that another process changed the image in between */

/* One step of image_open says: the world has changed, start again. Not an error that callers see. */
#define TRY_AGAIN 1

/* A shared open drops its lock to clean up, and somebody may leave something again meanwhile. */
#define CLEANINGS 2

/* What is known of the steps before, when they start again. */
struct attempt {
	int number;
	int cleanings, cleaning_error; /* of a shared open */
	int recovery_error;            /* of a shared open's attempt to apply redo */
};

static void release(struct image *image)
{
	map_db_close(image->db);
	image_map_unref(image->map);
	redo_overlay_free(image->overlay);
	if (image->bundle_fd >= 0)
		image->io->close(image->io, image->bundle_fd);
	if (image->data_fd >= 0)
		image->io->close(image->io, image->data_fd);
	image->db = NULL;
	image->map = NULL;
	image->overlay = NULL;
	image->bundle_fd = image->data_fd = -1;
	image->leased = false;
	image->state = (struct map_state){0};
}

void image_close(struct image *image)
{
	if (!image)
		return;
	if (image->staging_name)
		image_rollback(image);
	release(image);
	if (image->parent_fd >= 0)
		close(image->parent_fd);
	free(image->name);
	free(image);
}

/* Opens the data file as the flags of image_open say, or read-only where the file system is. */
static int open_data(struct image *image, int dir_fd, const char *name, int flags)
{
	bool wait = flags & IMAGE_WAIT;
	int fd = -EROFS;

	image->read_only = flags & IMAGE_READ_ONLY || image->access == IMAGE_UNLOCKED;
	if (flags & IMAGE_MAP_ONLY)
		fd = data_open_path(image->io, dir_fd, name);
	else if (!image->read_only)
		fd = data_open_wait(image, dir_fd, name, O_RDWR, wait);
	if (fd == -EROFS) {
		image->read_only = true;
		fd = data_open_wait(image, dir_fd, name, O_RDONLY, wait);
	}
	image->data_fd = fd < 0 ? -1 : fd;
	return fd < 0 ? fd : 0;
}

/* 1: the name below the directory is that inode's; 0: it is another's or nobody's; -errno. */
static int names_inode(int dir_fd, const char *name, const struct stat *status)
{
	struct stat named;
	int rc = name_stat(dir_fd, name, &named);

	return rc == -ENOENT ? 0 : rc < 0 ? rc : same_inode(&named, status);
}

static int open_bundle_files(struct image *image, int flags)
{
	struct stat status;
	int fd = bundle_open(image->io, image->parent_fd, image->name);

	if (fd < 0)
		return fd;
	image->bundle_fd = fd;
	if (fstatat(fd, MAP_DB_NAME, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? -EISDIR : -errno;
	if (status.st_nlink > 1) /* the map of two */
		return -EUCLEAN;
	int rc = open_data(image, fd, BUNDLE_DATA_NAME, flags);
	return rc == -ENOENT || rc == -EISDIR || rc == -ELOOP ? -EUCLEAN : rc;
}

/* Plain or bundle, decided afresh: opens what the name means now. */
static int open_files(struct image *image, int flags)
{
	struct stat status;
	int rc;

	if (fstatat(image->parent_fd, image->name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT && image->waited ? -ESTALE : -errno;
	if (S_ISREG(status.st_mode))
		rc = open_data(image, image->parent_fd, image->name, flags);
	else if (S_ISDIR(status.st_mode))
		rc = open_bundle_files(image, flags);
	else
		return S_ISLNK(status.st_mode) ? -ELOOP : -EINVAL;
	/* An adoption or its reverse, while we waited for its lease to end, looks like damage. Names that are exchanged
	 * may be what they were again by now. */
	if (S_ISREG(status.st_mode) ? rc == -EISDIR || rc == -EUCLEAN : rc == -ENOTDIR)
		return TRY_AGAIN;
	return rc < 0 && names_inode(image->parent_fd, image->name, &status) == 0 ? TRY_AGAIN : rc;
}

/* 0 if the name still means what was opened before the lock was had, else TRY_AGAIN; -errno. */
static int check_still_named(const struct image *image)
{
	struct stat opened;
	int rc = fstat(image->bundle_fd >= 0 ? image->bundle_fd : image->data_fd, &opened) < 0 ? -errno : 0;

	if (rc == 0)
		rc = names_inode(image->parent_fd, image->name, &opened);
	if (rc == 1 && image->bundle_fd >= 0) {
		rc = fstat(image->data_fd, &opened) < 0 ? -errno : 0;
		if (rc == 0)
			rc = names_inode(image->bundle_fd, BUNDLE_DATA_NAME, &opened);
	}
	return rc == 1 ? 0 : rc == 0 ? TRY_AGAIN : rc;
}

static int take_lock(struct image *image, int flags)
{
	if (image->access == IMAGE_UNLOCKED)
		return 0;
	return data_lock(image->data_fd, image->access == IMAGE_SHARED ? LOCK_SH : LOCK_EX, flags & IMAGE_WAIT,
	                 &image->waited);
}

static int any_hidden(void *context, const char *entry, const char *name)
{
	return 1;
}

/* After cleaning. Reading and writing a plain file is right, whatever else has its data. A second link to a bundle's is
 * damage, unless it is one that we make, and could not remove for an error. */
static int check_links(const struct image *image, int cleaning_error)
{
	struct stat status;

	if (fstat(image->data_fd, &status) < 0)
		return -errno;
	if (status.st_nlink == 1 || image->bundle_fd < 0)
		return 0;
	int hidden = names_has_hidden_link(image->parent_fd, &status);
	if (hidden < 0)
		return hidden;
	if (!hidden || cleaning_error == 0)
		return -EUCLEAN;
	return cleaning_error == -EAGAIN ? -EBUSY : cleaning_error;
}

/* What a change that was cut short has left beside the image goes before anything else happens to it: should the image
 * be renamed or removed first, nobody could tell any more whose it is. It may be a second link to the data, of which a
 * bundle has none otherwise. */
static int drop_leftovers(struct image *image, struct attempt *attempt)
{
	struct stat status;

	if (fstat(image->data_fd, &status) < 0)
		return -errno;
	bool linked = status.st_nlink != 1;
	/* A look in the middle of somebody's adoption does no harm. */
	if (image->access == IMAGE_UNLOCKED || image->read_only)
		return 0;
	if (!linked) {
		int rc = names_visit_hidden(image->parent_fd, image->name, any_hidden, NULL);
		if (rc <= 0)
			return rc;
	}
	const char *only_name = linked ? NULL : image->name; /* the link may bear the name that the image had before */
	struct cleaned cleaned;
	if (image->access == IMAGE_EXCLUSIVE) {
		names_clean(image->io, image->parent_fd, only_name, &status, &cleaned);
		return check_links(image, cleaned.error);
	}
	if (attempt->cleanings == CLEANINGS)
		return check_links(image, attempt->cleaning_error);
	flock(image->data_fd, LOCK_UN);
	names_clean(image->io, image->parent_fd, only_name, NULL, &cleaned);
	attempt->cleanings++;
	attempt->cleaning_error = cleaned.error;
	return TRY_AGAIN;
}

/* Replaces map and state by what image->db has now. The old ones stay after an error. */
static int reload(struct image *image)
{
	struct map_state state;
	struct image_map *map = NULL;
	int rc = map_db_read_state(image->db, &state);

	if (rc == 0)
		rc = map_db_read_map(image->db, &map);
	if (rc < 0)
		return rc;
	image_map_unref(image->map);
	image->map = map;
	image->state = state;
	return 0;
}

int image_read_undo_map(const struct image *image, struct image_map **out)
{
	bool valid;
	int rc = map_db_undo_valid(image->db, image->data_fd, &valid);

	*out = NULL;
	return rc == 0 && valid ? map_db_read_undo_map(image->db, out) : rc;
}

/* Makes the image readable while its redo cannot be applied. */
static int overlay_redo(struct image *image)
{
	struct redo_overlay *overlay;
	int rc = map_db_read_redo(image->db, &overlay);

	if (rc < 0)
		return rc;
	redo_overlay_free(image->overlay);
	image->overlay = overlay;
	image->read_only = true;
	return 0;
}

/* Errors of the host that will stay, for which the image can still be shown; anything else is damage, or passes. */
static bool can_overlay(int rc)
{
	return rc == -EROFS || rc == -ENOSPC || rc == -EDQUOT || rc == -EIO || rc == -EACCES || rc == -EPERM;
}

/* Applies redo under a LOCK_EX that the caller holds. Before the data changes, the exchange of names that brought the
 * bundle here must be durable: a plain file that came back would show the bytes without the map. */
static int apply_redo(const struct io *io, int parent_fd, struct map_db *db, int data_fd)
{
	struct redo_overlay *overlay = NULL;
	int rc = map_db_read_redo(db, &overlay); /* checks it: it may be somebody else's */

	redo_overlay_free(overlay);
	if (rc == 0)
		rc = io->fsync(io, parent_fd);
	if (rc == 0)
		rc = map_db_reserve_redo(db, data_fd);
	return rc == 0 ? map_db_apply_redo(db, data_fd) : rc;
}

/* For a shared open: a lock must never be upgraded, so ours is dropped and LOCK_EX is taken on a descriptor of its own.
 * Whatever was found before is looked at again. 0: redo is applied, or somebody else has done it; -EBUSY: somebody else
 * is at it, or only looks. */
static int recover_redo(struct image *image)
{
	struct map_db *db = NULL;

	flock(image->data_fd, LOCK_UN);
	cleanup_fd int data_fd = data_open(image->io, image->bundle_fd, BUNDLE_DATA_NAME, O_RDWR);
	if (data_fd < 0)
		return data_fd;
	if (flock(data_fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	int rc = map_db_open(image->io, image->bundle_fd, MAP_DB_NO_WAIT, &db);
	if (rc < 0)
		return rc;
	rc = apply_redo(image->io, image->parent_fd, db, data_fd);
	map_db_close(db);
	return rc;
}

/* Redo is pending: applies it, or shows the image as if it were. */
static int bring_up_to_date(struct image *image, bool recovery_failed)
{
	int rc = -EROFS;

	if (!image->read_only && !recovery_failed && image->access == IMAGE_SHARED) {
		map_db_close(image->db);
		image->db = NULL;
		rc = recover_redo(image);
		return rc == 0 || rc == -ENOENT ? TRY_AGAIN : rc; /* -ENOENT: it has become plain meanwhile */
	}
	if (!image->read_only && image->access == IMAGE_EXCLUSIVE)
		rc = apply_redo(image->io, image->parent_fd, image->db, image->data_fd);
	if (rc == 0)
		return map_db_read_state(image->db, &image->state);
	return can_overlay(rc) ? overlay_redo(image) : rc;
}

/* Space is added to the data file before a map names it and taken away after, so a data file that ends before the map
 * does has lost bytes. Who has no lock may see it between the two. */
static int check_data_length(const struct image *image)
{
	struct stat status;

	if (image->access == IMAGE_UNLOCKED)
		return 0;
	if (fstat(image->data_fd, &status) < 0)
		return -errno;
	return (uint64_t)status.st_size < image_map_host_end(image->map) ? -EUCLEAN : 0;
}

/* Whoever worked on the image may have died between a change and its sync. What is written from now on goes by what is
 * here now; it would be lost if a crash brought back what was before: the journal of a commit, and with it an older map
 * or redo that is applied once more; the bundle of which the file under the name was made, or what that file replaced.
 */
static int make_durable(const struct image *image)
{
	int rc = 0;

	if (image->read_only)
		return 0;
	if (image->bundle_fd >= 0)
		rc = image->io->fsync(image->io, image->bundle_fd);
	/* Until names are durable, what they replace stays under a hidden one. */
	if (rc == 0)
		rc = names_visit_hidden(image->parent_fd, image->name, any_hidden, NULL);
	return rc > 0 ? image->io->fsync(image->io, image->parent_fd) : rc;
}

static int open_db(const struct image *image, int flags, struct map_db **out)
{
	return map_db_open(image->io, image->bundle_fd, flags | (image->read_only ? MAP_DB_READ_ONLY : 0), out);
}

static int load_bundle(struct image *image, bool recovery_failed)
{
	int rc = open_db(image, image->access == IMAGE_SHARED ? MAP_DB_NO_WAIT : 0, &image->db);

	if (rc < 0)
		return rc;
	rc = map_db_snapshot_begin(image->db);
	if (rc == 0)
		rc = map_db_read_state(image->db, &image->state);
	if (rc == 0 && image->state.redo_pending && image->access != IMAGE_UNLOCKED) {
		rc = map_db_snapshot_end(image->db);
		if (rc == 0)
			rc = bring_up_to_date(image, recovery_failed);
	} else if (rc == 0 && image->state.redo_pending) {
		rc = overlay_redo(image);
	}
	if (rc == 0)
		rc = reload(image);
	if (rc == 0)
		rc = check_data_length(image);
	if (rc == 0)
		rc = map_db_snapshot_end(image->db);
	if (rc != 0)
		return rc;
	if (image->access == IMAGE_SHARED) {
		map_db_close(image->db);
		image->db = NULL;
	}
	return 0;
}

static int load_plain(struct image *image)
{
	struct stat status;

	if (fstat(image->data_fd, &status) < 0)
		return -errno;
	image->state = (struct map_state){.size = (uint64_t)status.st_size};
	return image_map_identity(image->state.size, &image->map);
}

/* One try: 0, TRY_AGAIN or -errno. */
static int try_open(struct image *image, int flags, unsigned int lease_patience_ms, struct attempt *attempt)
{
	int rc = open_files(image, flags);

	if (rc == 0)
		rc = take_lock(image, flags);
	if (rc == 0)
		rc = check_still_named(image);
	if (rc == 0)
		rc = drop_leftovers(image, attempt);
	if (rc == 0 && image->access == IMAGE_EXCLUSIVE) {
		rc = data_lease(image, lease_patience_ms);
		if (rc == -EBUSY && image->read_only)
			rc = 0;
	}
	if (rc != 0)
		return rc;
	rc = image->bundle_fd < 0 ? load_plain(image) : load_bundle(image, attempt->recovery_error < 0);
	if (rc == 0)
		rc = make_durable(image);
	if (rc < 0 && can_overlay(rc) && image->access == IMAGE_SHARED && image->state.redo_pending &&
	    attempt->recovery_error == 0) {
		attempt->recovery_error = rc;
		return TRY_AGAIN;
	}
	return rc;
}

static int image_new(const struct io *io, int parent_fd, const char *name, enum image_access access, struct image **out)
{
	struct image *image = calloc(1, sizeof *image);

	if (!image)
		return -ENOMEM;
	*image = (struct image){.io = io, .parent_fd = -1, .data_fd = -1, .bundle_fd = -1, .access = access};
	image->parent_fd = fcntl(parent_fd, F_DUPFD_CLOEXEC, 0);
	int rc = image->parent_fd < 0 ? -errno : 0;
	image->name = strdup(name);
	if (rc == 0 && !image->name)
		rc = -ENOMEM;
	if (rc < 0) {
		image_close(image);
		return rc;
	}
	*out = image;
	return 0;
}

int image_open(const struct io *io, int parent_fd, const char *name, enum image_access access, int flags,
               unsigned int lease_patience_ms, struct image **out)
{
	struct image *image;
	struct attempt attempt = {0};
	int rc = image_new(io, parent_fd, name, access, &image);

	assert(access == IMAGE_UNLOCKED || !(flags & IMAGE_MAP_ONLY));
	if (rc < 0)
		return rc;
	do {
		release(image);
		rc = try_open(image, flags, lease_patience_ms, &attempt);
	} while (rc == TRY_AGAIN && ++attempt.number < OPEN_TRIES);
	if (rc == 0) {
		*out = image;
		return 0;
	}
	image_close(image);
	return rc == TRY_AGAIN ? -EBUSY : rc;
}

int image_db_open(struct image *image, int flags, struct map_db **out)
{
	return image->bundle_fd < 0 ? -ENOENT : open_db(image, flags, out);
}

int image_read(const struct image *image, void *buffer, size_t length, uint64_t guest_off)
{
	uint64_t size = image_map_size(image->map);
	uint8_t *to = buffer;

	if (guest_off > size || length > size - guest_off)
		return -EINVAL;
	while (length > 0) {
		struct extent extent;

		image_map_lookup(image->map, guest_off, length, &extent);
		size_t n = (size_t)extent.length;
		int rc = io_pread_full(image->io, image->data_fd, to, n, extent.host_off);
		if (rc < 0)
			return rc;
		if (image->overlay)
			redo_overlay_patch(image->overlay, extent.host_off, to, n);
		to += n;
		guest_off += n;
		length -= n;
	}
	return 0;
}

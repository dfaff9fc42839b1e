/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * image: changes of the map, adoption (plain to bundle) and its reverse.
 *
 * The order of a commit, and why. Each step is reached only when the one before has succeeded:
 *
 *     room for redo        after COMMIT there must be no reason left for it to fail: holes in the data file are filled,
 *                          and the host is asked for what else it takes (image_room.c)
 *     new map is read      back from the transaction: it is checked, and nothing can fail later for want of memory
 *     lease is looked at   the last moment at which stepping back is free
 *     COMMIT               in a bundle: from here on the change exists. In a staging bundle: nobody knows it yet
 *     link, give away      the staging bundle is complete, and its owner's: its names may be exchanged from here on
 *     sync staging         it is durable
 *     sync parent          so is the end of earlier changes: should hidden names of theirs come back after the
 *                          exchange, nobody could tell what they are
 *     exchange             from here on the change exists
 *     lease is looked at   who has found the plain file under its name, and waits for the lease, is going to have the
 *                          data file, whatever it is by then: if there is one the names are exchanged again
 *     drop the old link    before redo, because it changes the data's ctime, which is stamped into the undo
 *     sync parent          redo must not touch the data before: the plain file could come back. One sync for
 *                          both: no journal reorders what happens to one name
 *     redo, sync, forget   map_db_apply_redo
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>

#include "mapdb/cleanup.h"
#include "mapdb/image_internal.h"
#include "mapdb/map_db_internal.h"

#define STAGING_TRIES 10

bool image_is_on_network(const struct image *image)
{
	static const uint32_t magics[] = {
	        NFS_SUPER_MAGIC,
	        SMB_SUPER_MAGIC,
	        CIFS_SUPER_MAGIC,
	        SMB2_SUPER_MAGIC,
	        V9FS_MAGIC,
	        CEPH_SUPER_MAGIC,
	        AFS_SUPER_MAGIC,
	        AFS_FS_MAGIC,
	        CODA_SUPER_MAGIC,
	        FUSE_SUPER_MAGIC,
	        NCP_SUPER_MAGIC,
	        0x01161970 /* GFS2 */,
	        0x7461636f /* OCFS2 */,
	        0x0bd00bd0 /* Lustre */,
	        0x786f4256 /* vboxsf */,
	};
	struct statfs status;

	if (fstatfs(image->data_fd, &status) < 0)
		return true;
	for (size_t i = 0; i < sizeof magics / sizeof magics[0]; i++) {
		if ((uint32_t)status.f_type == magics[i])
			return true;
	}
	return false;
}

/* Takes back what was built of a staging bundle. If the hidden name has come to mean something else, that stays. */
static void drop_staging(struct image *image)
{
	struct stat named, built;
	bool known = image->bundle_fd >= 0 && fstat(image->bundle_fd, &built) == 0 &&
	             fstatat(image->parent_fd, image->staging_name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	             same_inode(&named, &built);

	map_db_close(image->db);
	image->db = NULL;
	if (image->bundle_fd >= 0)
		image->io->close(image->io, image->bundle_fd);
	image->bundle_fd = -1;
	if (known)
		names_remove_bundle(image->io, image->parent_fd, image->staging_name);
	else /* just made, and could not be opened: empty, unless it is another */
		image->io->unlink(image->io, image->parent_fd, image->staging_name, AT_REMOVEDIR);
	free(steal_pointer(&image->staging_name));
}

static int any_member(void *context, const char *entry)
{
	return strcmp(entry, ".") != 0 && strcmp(entry, "..") != 0;
}

/* Whoever may write in the parent can have put another directory under the name, which must be neither filled nor given
 * away nor removed. */
static int open_staging(struct image *image)
{
	cleanup_fd int fd = bundle_open(image->io, image->parent_fd, image->staging_name);
	struct stat status;

	if (fd < 0)
		return fd;
	if (fstat(fd, &status) < 0)
		return -errno;
	int rc = status.st_uid == geteuid() ? io_look_entries(fd, any_member, NULL) : 1;
	if (rc != 0)
		return rc < 0 ? rc : -ESTALE;
	image->bundle_fd = steal_fd(&fd);
	return 0;
}

static int make_staging_directory(struct image *image)
{
	int rc = -EEXIST;

	for (int i = 0; i < STAGING_TRIES && rc == -EEXIST; i++) {
		cleanup_free char *name = NULL;

		rc = names_make_stale(image->parent_fd, image->name, "", &name);
		if (rc < 0)
			return rc;
		rc = image->io->mkdir(image->io, image->parent_fd, name, 0700);
		if (rc == 0)
			image->staging_name = steal_pointer(&name);
	}
	return rc < 0 ? rc : open_staging(image);
}

/* Whoever owns the image owns the bundle; where we may not give it away it stays ours. The directory itself ("") goes
 * last: its new owner may put anybody's file under the names in it. */
static void give_away(const struct image *image, const char *name)
{
	struct stat status;

	if (fstat(image->data_fd, &status) < 0)
		return;
	if (fchownat(image->bundle_fd, name, status.st_uid, status.st_gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
		return;
}

/* The exchange comes after COMMIT. Better to know before that there is none, or that the bundle would not be served. */
static int probe_names(const struct image *image)
{
	const struct io *io = image->io;
	int fd = image->bundle_fd;
	struct stat db;

	if (fstatat(fd, MAP_DB_NAME, &db, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (image_names_fold(fd, &db))
		return -EOPNOTSUPP;
	int rc = io->mkdir(io, fd, BUNDLE_PROBE_NAME, 0700);
	if (rc < 0)
		return rc;
	rc = io->rename(io, fd, MAP_DB_NAME, fd, BUNDLE_PROBE_NAME, RENAME_EXCHANGE);
	if (rc == -EINVAL || rc == -ENOSYS)
		rc = -EOPNOTSUPP;
	if (rc == 0)
		rc = io->rename(io, fd, MAP_DB_NAME, fd, BUNDLE_PROBE_NAME, RENAME_EXCHANGE);
	return rc == 0 ? io->unlink(io, fd, BUNDLE_PROBE_NAME, AT_REMOVEDIR) : rc;
}

static int build_staging(struct image *image)
{
	int rc = make_staging_directory(image);

	if (rc == 0)
		rc = map_db_create(image->io, image->bundle_fd, image->map);
	if (rc == 0)
		rc = probe_names(image);
	if (rc < 0)
		return rc;
	give_away(image, MAP_DB_NAME);
	rc = map_db_open(image->io, image->bundle_fd, 0, &image->db);
	return rc == 0 ? map_db_begin(image->db) : rc;
}

int image_may_adopt(const struct image *image)
{
	struct stat status;

	if (image->bundle_fd >= 0)
		return 0;
	if (fstat(image->data_fd, &status) < 0)
		return -errno;
	if (status.st_nlink != 1)
		return -EMLINK;
	return image_is_on_network(image) ? -EOPNOTSUPP : 0;
}

int image_begin(struct image *image)
{
	assert(image->access == IMAGE_EXCLUSIVE && !image->staging_name);
	if (image->read_only)
		return -EROFS;
	if (image->bundle_fd >= 0)
		return map_db_begin(image->db);

	int rc = image_may_adopt(image);
	if (rc == 0)
		rc = build_staging(image);
	if (rc < 0 && image->staging_name)
		drop_staging(image);
	return rc;
}

void image_rollback(struct image *image)
{
	if (image->staging_name)
		drop_staging(image);
	else if (image->db)
		map_db_rollback(image->db);
}

/* What the transaction under way leads to. */
struct outcome {
	struct map_state state;
	struct image_map *map;
	struct redo_overlay *overlay; /* its redo, in case it cannot be applied */
};

static void cleanup_outcome(struct outcome *outcome)
{
	image_map_unref(outcome->map);
	redo_overlay_free(outcome->overlay);
}

static int read_outcome(struct image *image, struct outcome *outcome)
{
	int rc = map_db_read_state(image->db, &outcome->state);

	if (rc == 0)
		rc = map_db_read_map(image->db, &outcome->map);
	if (rc == 0)
		rc = map_db_read_redo(image->db, &outcome->overlay);
	return rc;
}

/* The image is what the transaction has made of it; redo is still to come. */
static void adopt_outcome(struct image *image, struct outcome *outcome)
{
	image_map_unref(image->map);
	redo_overlay_free(image->overlay);
	image->map = steal_pointer(&outcome->map);
	image->state = outcome->state;
	image->overlay = steal_pointer(&outcome->overlay);
}

/* COMMIT of a bundle's transaction. If it fails, only a new look tells what became of it. */
static int commit_in_place(struct image *image)
{
	int rc = db_commit_known(&image->db, true);

	if (rc == -EINPROGRESS) /* until it is opened again nobody knows which map counts */
		image->in_doubt = image->read_only = true;
	return rc;
}

/* Makes the staging bundle complete, its owner's, and durable. */
static int finish_staging(struct image *image)
{
	const struct io *io = image->io;
	struct stat linked, opened;
	int rc = map_db_commit(image->db);

	if (rc == 0)
		rc = io->link(io, image->parent_fd, image->name, image->bundle_fd, BUNDLE_DATA_NAME);
	if (rc < 0)
		return rc;
	if (fstatat(image->bundle_fd, BUNDLE_DATA_NAME, &linked, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fstat(image->data_fd, &opened) < 0)
		return -errno;
	if (!same_inode(&linked, &opened))
		return -ESTALE;
	give_away(image, "");
	rc = io->fsync(io, image->bundle_fd);
	return rc == 0 ? io->fsync(io, image->parent_fd) : rc;
}

int image_exchange_checked(const struct image *image, const char *hidden, const struct stat *expected)
{
	const struct io *io = image->io;
	struct stat status;
	int rc = name_stat(image->parent_fd, image->name, &status);

	if (rc < 0 || !same_inode(&status, expected))
		return rc < 0 && rc != -ENOENT ? rc : -ESTALE;
	rc = io->rename(io, image->parent_fd, hidden, image->parent_fd, image->name, RENAME_EXCHANGE);
	if (rc < 0)
		return rc == -EINVAL ? -EOPNOTSUPP : rc;
	rc = name_stat(image->parent_fd, hidden, &status);
	if (rc == 0 && same_inode(&status, expected))
		return 0;
	io->rename(io, image->parent_fd, hidden, image->parent_fd, image->name, RENAME_EXCHANGE);
	return rc < 0 && rc != -ENOENT ? rc : -ESTALE;
}

/* The names are exchanged. -EBUSY: not any more, as somebody waits for the plain file; -EINPROGRESS: that failed. */
static int look_at_lease_again(struct image *image)
{
	const struct io *io = image->io;

	if (!image_wanted(image))
		return 0;
	if (io->rename(io, image->parent_fd, image->staging_name, image->parent_fd, image->name, RENAME_EXCHANGE) < 0)
		return -EINPROGRESS;
	int rc = io->fsync(io, image->parent_fd);
	return rc < 0 ? rc : -EBUSY;
}

/* Puts the staging bundle into place. -EINPROGRESS: it is there, but redo must wait. */
static int commit_staging(struct image *image)
{
	const struct io *io = image->io;
	struct stat opened;
	int rc = finish_staging(image);

	if (rc == 0 && fstat(image->data_fd, &opened) < 0)
		rc = -errno;
	if (rc == 0)
		rc = image_exchange_checked(image, image->staging_name, &opened);
	if (rc == 0)
		rc = look_at_lease_again(image);
	if (rc < 0 && rc != -EINPROGRESS) {
		drop_staging(image);
		return rc;
	}
	if (rc == 0)
		rc = io->unlink(io, image->parent_fd, image->staging_name, 0);
	if (rc == 0)
		rc = io->fsync(io, image->parent_fd);
	free(steal_pointer(&image->staging_name));
	return rc == 0 ? 0 : -EINPROGRESS;
}

/* Who waits to open a bundle's data file is the daemon, which then looks for the map; who waits for a plain file may be
 * anybody. */
static bool may_commit(const struct image *image)
{
	return image->staging_name ? !image_wanted(image) : image_still_ours(image);
}

int image_commit(struct image *image)
{
	__attribute__((cleanup(cleanup_outcome))) struct outcome outcome = {0};
	int rc = map_db_reserve_redo(image->db, image->data_fd);

	if (rc == 0)
		rc = read_outcome(image, &outcome);
	if (rc == 0)
		rc = image_check_room(image, outcome.overlay);
	if (rc == 0 && !may_commit(image))
		rc = -EBUSY;
	if (rc < 0) {
		image_rollback(image);
		return rc;
	}
	rc = image->staging_name ? commit_staging(image) : commit_in_place(image);
	if (image->in_doubt || (rc < 0 && rc != -EINPROGRESS))
		return rc;

	adopt_outcome(image, &outcome);
	if (rc == 0 && map_db_apply_redo(image->db, image->data_fd) < 0)
		rc = -EINPROGRESS;
	if (rc < 0) {
		image->read_only = true;
		return rc;
	}
	redo_overlay_free(steal_pointer(&image->overlay));
	image->state.redo_pending = false;
	return 0;
}

int image_undo(struct image *image, const struct run_record *run)
{
	assert(image->access == IMAGE_EXCLUSIVE);
	if (image->read_only)
		return -EROFS;
	if (image->bundle_fd < 0)
		return -ENODATA;
	int rc = map_db_begin(image->db);
	if (rc < 0)
		return rc;
	rc = map_db_put_undo(image->db, image->data_fd, run);
	if (rc < 0) {
		map_db_rollback(image->db);
		return rc;
	}
	return image_commit(image);
}

/* Gives the data file the size that the guest sees, which is the one a plain file shows. */
static int fit_data(const struct image *image)
{
	const struct io *io = image->io;
	struct stat status;

	if (fstat(image->data_fd, &status) < 0)
		return -errno;
	if ((uint64_t)status.st_size != image->state.size) {
		int rc = io->ftruncate(io, image->data_fd, image->state.size);
		if (rc < 0)
			return rc;
	}
	return io->fsync(io, image->data_fd);
}

/* The exchange back, and its sync. Without that the directory stays, for image_clean_stale: it has the map that would
 * be needed. */
static int exchange_plain(struct image *image, const char *hidden)
{
	const struct io *io = image->io;
	struct stat bundle;
	int rc = io->link(io, image->bundle_fd, BUNDLE_DATA_NAME, image->parent_fd, hidden);

	if (rc < 0)
		return rc;
	rc = fstat(image->bundle_fd, &bundle) < 0 ? -errno : io->fsync(io, image->parent_fd);
	if (rc == 0 && !image_still_ours(image))
		rc = -EBUSY;
	if (rc == 0)
		rc = image_exchange_checked(image, hidden, &bundle);
	if (rc < 0) {
		io->unlink(io, image->parent_fd, hidden, 0);
		return rc;
	}
	map_db_close(image->db);
	image->db = NULL;
	io->close(io, image->bundle_fd);
	image->bundle_fd = -1;
	if (io->fsync(io, image->parent_fd) == 0)
		names_remove_bundle(io, image->parent_fd, hidden);
	return 0;
}

int image_make_plain(struct image *image)
{
	cleanup_free char *hidden = NULL;

	assert(image->access == IMAGE_EXCLUSIVE);
	if (image->bundle_fd < 0)
		return 0;
	if (image->read_only)
		return -EROFS;
	if (!image_map_is_identity(image->map) || image->state.redo_pending)
		return -EINVAL;
	int rc = fit_data(image);
	if (rc == 0)
		rc = names_make_stale(image->parent_fd, image->name, "", &hidden);
	if (rc == 0)
		rc = exchange_plain(image, hidden);
	if (rc < 0)
		return rc;
	image->state = (struct map_state){.size = image->state.size};
	return 0;
}

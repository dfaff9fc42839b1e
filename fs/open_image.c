/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/open_image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <syslog.h>

#include "fs/damage.h"
#include "fs/host_file.h"
#include "fs/log.h"
#include "fs/settle.h"
#include "fs/store.h"
#include "mapdb/cleanup.h"
#include "mapdb/lock_table.h"

/* For a lock that nobody seems to have. */
#define CLAIM_ATTEMPTS 3

/* Guards node->open, node->map_changes and open_image.handles. */
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;

struct live_map *map_borrow(struct open_image *image)
{
	return map_pointer_borrow(&image->current);
}

void map_return(struct open_image *image, struct live_map *live)
{
	map_pointer_return(&image->current, live);
}

/* Who is just opening the image may have loaded the map before. */
static void note_map_change(struct open_image *image)
{
	pthread_mutex_lock(&open_lock);
	image->node->map_changes++;
	pthread_mutex_unlock(&open_lock);
}

void map_swap(struct open_image *image, struct live_map *live)
{
	note_map_change(image);
	map_pointer_swap(&image->current, live);
}

void open_image_in_doubt(struct open_image *image, const char *how)
{
	image->in_doubt = true;
	note_map_change(image);
	log_message(LOG_CRIT,
	            "%s: the map database cannot be written or read; the image is %s until it has been closed",
	            image->image->name, how);
}

void open_image_lock(struct open_image *image)
{
	atomic_fetch_add(&image->change_wanted, 1);
	pthread_mutex_lock(&image->change);
	atomic_fetch_sub(&image->change_wanted, 1);
}

static void open_image_free(struct open_image *image)
{
	int write_fd = atomic_load(&image->write_fd);

	if (write_fd >= 0 && write_fd != image->image->data_fd)
		close(write_fd);
	direct_file_close(&image->direct);
	write_gate_destroy(&image->gate);
	group_flush_destroy(&image->flushes);
	passthrough_destroy(&image->passthrough);
	settle_session_free(image->settle);
	map_pointer_destroy(&image->current);
	image_close(image->image);
	pthread_mutex_destroy(&image->change);
	node_unref(image->node);
	free(image);
}

/* Takes image in every case. */
static int open_image_new(struct node *node, struct image *image, struct open_image **out)
{
	struct open_image *open = calloc(1, sizeof(*open));

	if (!open || fstat(image->data_fd, &open->opened) < 0) {
		int ret = open ? -errno : -ENOMEM;

		free(open);
		image_close(image);
		return ret;
	}
	pthread_mutex_init(&open->change, NULL);
	open->node = node_ref(node);
	open->image = image;
	open->handles = 1;
	open->bundle = image->bundle_fd >= 0;
	atomic_init(&open->write_fd, image->read_only || image->overlay ? -1 : image->data_fd);
	host_file_init(&open->host, image->data_fd);
	if (open->bundle && !open->host.in_memory)
		read_ahead_init(&open->ahead, image->data_fd, image->map);
	direct_file_init(&open->direct);
	write_gate_init(&open->gate);
	group_flush_init(&open->flushes);
	passthrough_init(&open->passthrough);
	map_pointer_init(&open->current, live_map_new(image->map));
	if (!atomic_load(&open->current.live)) {
		open_image_free(open);
		return -ENOMEM;
	}
	*out = open;
	return 0;
}

static bool denied(int error)
{
	return error == -EACCES || error == -EPERM || error == -EROFS || error == -ETXTBSY;
}

/* Who has the lock on a bundle's directory; 0: that cannot be told. Those of other PID namespaces are not listed, who
 * has just let go is not any more, and the list may be out of reach. */
static pid_t claim_owner(int bundle_fd)
{
	struct lock_holder holder;
	struct stat status;

	return fstat(bundle_fd, &status) == 0 && lock_holders(&status, &holder, 1) == 1 ? holder.pid : 0;
}

static void claim_refused(struct node *node, const char *name, pid_t owner)
{
	char reason[128] = "a process that cannot be seen from here has it open, perhaps another zcfs; waiting for it";

	if (owner > 0)
		snprintf(reason, sizeof(reason), "another zcfs (process %ld) has it open; use one mount for it",
		         (long)owner);
	if (node_error_set(node, reason))
		log_message(LOG_ERR, "%s: not served: %s", name, reason);
}

/* A bundle is one daemon's: another one that had it open, because it serves the same directory by another path or one
 * of its subdirectories, would go on with the old map when this one changes it. The lock on the directory of the bundle
 * says so; it goes with image->bundle_fd. -EBUSY: this daemon is just opening or closing it, or nobody knows who is;
 * -ETXTBSY: it is another's.
 */
static int claim_bundle(struct node *node, const struct image *image)
{
	for (int i = 0; image->bundle_fd >= 0 && flock(image->bundle_fd, LOCK_EX | LOCK_NB) < 0; i++) {
		if (errno != EWOULDBLOCK)
			return -errno;
		pid_t owner = claim_owner(image->bundle_fd);
		if (owner == getpid())
			return -EBUSY;
		/* Whoever had it may have let go of it before we looked who it was. */
		if (owner == 0 && i < CLAIM_ATTEMPTS)
			continue;
		claim_refused(node, image->name, owner);
		return owner == 0 ? -EBUSY : -ETXTBSY;
	}
	return 0;
}

/* Opens what the name means now, whatever it meant before. */
static int open_by_name(struct node *node, struct node *parent, const char *name, struct image **out)
{
	/* Recovery syncs the directory, for which the node's descriptor will not do. */
	cleanup_fd int readable_fd = store.io->open(store.io, parent->fd, ".", O_RDONLY | O_DIRECTORY, 0);
	int parent_fd = readable_fd < 0 ? parent->fd : readable_fd;
	struct image *image;
	struct stat status;
	int ret;

	ret = image_open(store.io, parent_fd, name, IMAGE_SHARED, store.read_only ? IMAGE_READ_ONLY : 0, 0, &image);
	if (denied(ret) && !store.read_only)
		ret = image_open(store.io, parent_fd, name, IMAGE_SHARED, IMAGE_READ_ONLY, 0, &image);
	if (ret == -EUCLEAN || ret == -EMEDIUMTYPE) {
		damage_note(node, parent_fd, name);
		return -EUCLEAN;
	}
	/* Not there, or a directory now. */
	if (ret == -ENOENT || ret == -EISDIR || ret == -EWOULDBLOCK)
		return ret == -EWOULDBLOCK ? -EBUSY : -ESTALE;
	if (ret < 0)
		return ret;
	if (fstat(image->data_fd, &status) < 0)
		ret = -errno;
	else if (status.st_ino != node->ino || status.st_dev != node->dev)
		ret = -ESTALE;
	else
		ret = claim_bundle(node, image);
	if (ret < 0) {
		image_close(image);
		return ret;
	}
	node_error_set(node, NULL);
	if (image->overlay)
		log_message(LOG_WARNING,
		            "%s: a committed change could not be written to the data file; "
		            "serving the image read-only",
		            name);
	*out = image;
	return 0;
}

static int open_afresh(struct node *node, struct open_image **out)
{
	char name[NAME_MAX + 1];
	struct node *parent;
	struct image *image;
	int ret = node_place(node, &parent, name);

	if (ret < 0)
		return ret;
	ret = open_by_name(node, parent, name, &image);
	node_unref(parent);
	return ret < 0 ? ret : open_image_new(node, image, out);
}

/* A non-privileged mount leaves permissions to the system calls on the store, but sharing an open image makes none. */
static int check_permission(struct node *node, bool for_write)
{
	char path[64];

	if (store.privileged)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", node->fd);
	return faccessat(AT_FDCWD, path, for_write ? W_OK : R_OK, AT_EACCESS) < 0 ? -errno : 0;
}

/* An image that was opened by somebody who may only read it is to be written by somebody who may. */
static int make_writable(struct open_image *image)
{
	int fd, none = -1;

	if (atomic_load(&image->write_fd) >= 0)
		return 0;
	if (store.read_only || image->bundle || image->image->overlay)
		return -EROFS;
	fd = host_open_again(image->image->data_fd, O_RDWR);
	if (fd < 0)
		return fd;
	if (!atomic_compare_exchange_strong(&image->write_fd, &none, fd))
		close(fd);
	return 0;
}

struct open_image *open_image_of(const struct fuse_file_info *info)
{
	struct open_image *image = (struct open_image *)(uintptr_t)info->fh;

	/* Whatever its opener has done, although only the kernel stands between the two. */
	if (image)
		(void)atomic_load_explicit(&image->handed_out, memory_order_acquire);
	return image;
}

struct open_image *open_image_peek(struct node *node)
{
	struct open_image *image;

	pthread_mutex_lock(&open_lock);
	image = node->open;
	if (image)
		image->handles++;
	pthread_mutex_unlock(&open_lock);
	return image;
}

/* Makes fresh the node's open image, unless somebody else was faster: then *image is theirs, and fresh the caller's to
 * free. -EAGAIN: the map was changed after fresh had loaded it. */
static int publish(struct node *node, struct open_image *fresh, uint64_t map_changes, struct open_image **image)
{
	int ret = 0;

	pthread_mutex_lock(&open_lock);
	if (node->open) {
		*image = node->open;
		node->open->handles++;
	} else if (node->map_changes != map_changes) {
		ret = -EAGAIN;
	} else {
		node->open = fresh;
		*image = fresh;
	}
	pthread_mutex_unlock(&open_lock);
	return ret;
}

static int get_or_open(struct node *node, struct open_image **out)
{
	struct open_image *fresh;
	uint64_t map_changes;
	int ret;

	do {
		*out = open_image_peek(node);
		if (*out)
			return 0;
		pthread_mutex_lock(&open_lock);
		map_changes = node->map_changes;
		pthread_mutex_unlock(&open_lock);
		ret = open_afresh(node, &fresh);
		if (ret < 0)
			return ret;
		ret = publish(node, fresh, map_changes, out);
		if (ret < 0 || *out != fresh)
			open_image_free(fresh);
	} while (ret == -EAGAIN);
	return ret;
}

int open_image_get(struct node *node, bool for_write, struct open_image **out)
{
	struct open_image *image;
	int ret = check_permission(node, for_write);

	if (ret < 0)
		return ret;
	ret = get_or_open(node, &image);
	if (ret < 0)
		return ret;
	if (for_write) {
		ret = make_writable(image);
		if (ret < 0) {
			open_image_put(image);
			return ret;
		}
	}
	*out = image;
	return 0;
}

void open_image_put(struct open_image *image)
{
	bool last;

	pthread_mutex_lock(&open_lock);
	last = --image->handles == 0;
	if (last && image->node->open == image)
		image->node->open = NULL;
	pthread_mutex_unlock(&open_lock);
	if (last)
		open_image_free(image);
}

bool open_image_uncached(const struct open_image *image)
{
	return atomic_load_explicit(&image->cached_by, memory_order_relaxed) == CACHED_BY_HOST;
}

static enum cached_by cache_for(struct open_image *image, int flags)
{
	bool wanted = store.caching == CACHING_AUTO ? (flags & O_ACCMODE) != O_RDONLY : store.caching == CACHING_HOST;

	/* What is passed through is up to the kernel. */
	return wanted && store.uncached && !passthrough_in_use(&image->passthrough) ? CACHED_BY_HOST : CACHED_BY_BOTH;
}

void open_image_choose_cache(struct open_image *image, int flags)
{
	int nobody = CACHED_BY_NOBODY_YET;

	atomic_compare_exchange_strong(&image->cached_by, &nobody, cache_for(image, flags));
	if (flags & O_DIRECT) {
		if (!image->host.in_memory)
			direct_file_open(&image->direct, image->image->data_fd, atomic_load(&image->write_fd) >= 0);
	} else if ((flags & O_ACCMODE) != O_RDONLY && passthrough_in_use(&image->passthrough)) {
		write_gate_begin_cached(&image->gate);
		if (atomic_exchange(&image->written_past_us, true))
			write_gate_end_cached(&image->gate); /* the first one's stands for all */
	}
}

/* Whoever undoes a pass goes by the ctime that it has left (map_db_undo_valid), which a flush of the data alone leaves
 * in memory: after a power cut the undo would be valid, and take back what had been flushed. So as long as there may be
 * one the ctime is flushed, too, until one is on the disk that is later than that of the opening. */
static int sync_with_ctime(struct open_image *image, int fd)
{
	struct stat status;
	bool later = fstat(fd, &status) == 0 && (status.st_ctim.tv_sec != image->opened.st_ctim.tv_sec ||
	                                         status.st_ctim.tv_nsec != image->opened.st_ctim.tv_nsec);
	int ret = store.io->fsync(store.io, fd);

	if (ret == 0 && later)
		atomic_store(&image->ctime_durable, true);
	return ret;
}

/* A file system that is shut down while it syncs a file may say that it has done so, and have lost it all the same:
 * ext4 and XFS do (tests/fs/test_faults.py, test_flush_meets_shutdown). Once it is shut down nothing can be read of it,
 * not even nothing.
 */
static int still_there(int fd)
{
	char byte;

	return (int)store.io->pread(store.io, fd, &byte, 0, 0);
}

static void flush(void *context, bool data_only)
{
	struct open_image *image = context;
	int fd = atomic_load(&image->write_fd), ret, none = 0;

	if (fd < 0)
		fd = image->image->data_fd;
	if (image->image->state.undo_recorded && !atomic_load(&image->ctime_durable))
		ret = sync_with_ctime(image, fd);
	else
		ret = data_only ? store.io->fdatasync(store.io, fd) : store.io->fsync(store.io, fd);
	if (ret == 0)
		ret = still_there(fd);
	if (ret < 0 && atomic_compare_exchange_strong(&image->sync_error, &none, ret))
		log_message(LOG_CRIT,
		            "%s: writing to disk failed: %s; what was written since the last flush may be lost, "
		            "and every flush fails until the image has been closed",
		            image->image->name, strerror(-ret));
}

int open_image_sync(struct open_image *image, bool data_only)
{
	group_flush_run(&image->flushes, data_only, flush, image);
	return atomic_load(&image->sync_error);
}

void open_image_drop_privileges(const struct open_image *image)
{
	struct stat status;

	if (fstat(image->image->data_fd, &status) < 0)
		return;
	if ((status.st_mode & S_ISUID) || (status.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP)) {
		mode_t mode = status.st_mode & 07777 & ~(mode_t)S_ISUID;

		if (mode & S_IXGRP)
			mode &= ~(mode_t)S_ISGID;
		(void)fchmod(image->image->data_fd, mode);
	}
}

bool open_image_bundle_size(struct node *node, uint64_t *size)
{
	bool found = false;

	pthread_mutex_lock(&open_lock);
	if (node->open && node->open->bundle) {
		struct live_map *live = map_borrow(node->open);

		*size = image_map_size(live->map);
		map_return(node->open, live);
		found = true;
	}
	pthread_mutex_unlock(&open_lock);
	return found;
}

bool open_image_is_plain(struct node *node)
{
	bool plain;

	pthread_mutex_lock(&open_lock);
	plain = node->open && !node->open->bundle;
	pthread_mutex_unlock(&open_lock);
	return plain;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * directory: listing. Bundles are listed as the regular files that they stand for; what the mount hides is left out.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "fs/control.h"
#include "fs/node.h"
#include "fs/operations.h"
#include "fs/resolve.h"
#include "fs/store.h"
#include "mapdb/cleanup.h"
#include "mapdb/shown_inode.h"

/* One open directory. The kernel may send several requests on it at a time. */
struct listing {
	pthread_mutex_t lock;
	DIR *dir;
	off_t off;            /* where dir stands */
	struct dirent *ahead; /* read from dir, not handed out yet */
	LIST_ENTRY(listing) others;
};

/* All that are open. Nobody looks them up: but when the daemon ends before the kernel has released them, a checker of
 * leaks finds them here. */
static LIST_HEAD(, listing) listings = LIST_HEAD_INITIALIZER(listings);
static pthread_mutex_t listings_lock = PTHREAD_MUTEX_INITIALIZER;

static struct listing *listing_of(const struct fuse_file_info *info)
{
	return (struct listing *)(uintptr_t)info->fh;
}

static int open_listing(struct node *node, struct listing **out)
{
	struct listing *listing;
	int fd = store.io->open(store.io, node->fd, ".", O_RDONLY | O_DIRECTORY, 0);

	if (fd < 0)
		return fd;
	listing = calloc(1, sizeof(*listing));
	if (listing)
		listing->dir = fdopendir(fd);
	if (!listing || !listing->dir) {
		close(fd);
		free(listing);
		return -ENOMEM;
	}
	pthread_mutex_init(&listing->lock, NULL);
	pthread_mutex_lock(&listings_lock);
	LIST_INSERT_HEAD(&listings, listing, others);
	pthread_mutex_unlock(&listings_lock);
	*out = listing;
	return 0;
}

static void close_listing(struct listing *listing)
{
	pthread_mutex_lock(&listings_lock);
	LIST_REMOVE(listing, others);
	pthread_mutex_unlock(&listings_lock);
	closedir(listing->dir);
	pthread_mutex_destroy(&listing->lock);
	free(listing);
}

void fs_opendir(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info)
{
	struct node *node = node_of(number);
	struct listing *listing = NULL;
	int ret = 0;

	if (node->kind != NODE_CONTROL_ROOT) {
		ret = open_listing(node, &listing);
		if (ret < 0) {
			fuse_reply_err(req, -ret);
			return;
		}
	}
	info->fh = (uintptr_t)listing;
	if (fuse_reply_open(req, info) == -ENOENT)
		fs_releasedir(NULL, number, info);
}

void fs_releasedir(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info)
{
	struct listing *listing = listing_of(info);

	if (listing)
		close_listing(listing);
	if (req)
		fuse_reply_err(req, 0);
}

void fs_fsyncdir(fuse_req_t req, fuse_ino_t number, int data_only, struct fuse_file_info *info)
{
	struct listing *listing = listing_of(info);
	int ret = listing ? store.io->fsync(store.io, dirfd(listing->dir)) : 0;

	fuse_reply_err(req, -ret);
}

static bool dots(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* A directory that is a bundle: listed as a file, with its data's inode number. */
static void disguise_bundle(int dir_fd, const char *name, struct stat *status)
{
	char path[NAME_MAX + sizeof("/" MAP_DB_NAME)];
	struct stat inner;

	snprintf(path, sizeof(path), "%s/%s", name, MAP_DB_NAME);
	if (fstatat(dir_fd, path, &inner, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	status->st_mode = S_IFREG;
	snprintf(path, sizeof(path), "%s/%s", name, BUNDLE_DATA_NAME);
	if (fstatat(dir_fd, path, &inner, AT_SYMLINK_NOFOLLOW) == 0) {
		status->st_dev = inner.st_dev;
		status->st_ino = inner.st_ino;
	}
}

/* What is listed about one entry without looking it up; st_ino and the type only. Of a directory in which something is
 * mounted it is, as on the host, the inode below. */
static void plain_status(const struct dirent *entry, const struct node *directory, int dir_fd, struct stat *status)
{
	unsigned char type = entry->d_type;
	struct stat asked;

	*status = (struct stat){.st_dev = directory->dev, .st_ino = entry->d_ino};
	if (type == DT_UNKNOWN && fstatat(dir_fd, entry->d_name, &asked, AT_SYMLINK_NOFOLLOW) == 0)
		type = IFTODT(asked.st_mode);
	status->st_mode = DTTOIF(type);
	if (type == DT_DIR && !dots(entry->d_name))
		disguise_bundle(dir_fd, entry->d_name, status);
	status->st_ino = shown_inode(status, store.dev);
}

/* Adds one entry to the answer. Returns its size; larger than room: it did not fit and must be handed out next time. */
static size_t add_entry(fuse_req_t req, struct node *directory, struct listing *listing, char *to, size_t room,
                        bool plus)
{
	const struct dirent *dirent = listing->ahead;
	struct fuse_entry_param entry = {0};
	const char *name = dirent->d_name;
	char control_name[NAME_MAX + sizeof(CONTROL_DB_SUFFIX)];

	plain_status(dirent, directory, dirfd(listing->dir), &entry.attr);
	if (directory->kind == NODE_CONTROL_DB_DIRECTORY) {
		if (!control_db_listed(dirent, &entry.attr, control_name))
			return 0;
		name = control_name;
	} else if (name_hidden(directory, name)) {
		return 0;
	}
	if (!plus)
		return fuse_add_direntry(req, to, room, name, &entry.attr, dirent->d_off);

	/* Size first: a lookup counts, whether or not the entry then fits. */
	if (fuse_add_direntry_plus(req, NULL, 0, name, &entry, dirent->d_off) > room)
		return SIZE_MAX;
	if (!dots(name) && directory->kind == NODE_DIRECTORY) {
		struct stat listed = entry.attr;
		int ret = entry_lookup(directory, name, &entry);

		if (ret == -ENOENT) /* gone in the meantime */
			return 0;
		if (ret < 0) {
			/* Shown by name; whoever looks closer gets the error. */
			memset(&entry, 0, sizeof(entry));
			entry.attr = listed;
		}
	}
	return fuse_add_direntry_plus(req, to, room, name, &entry, dirent->d_off);
}

static int fill(fuse_req_t req, struct node *node, struct listing *listing, char *buffer, size_t size, off_t off,
                bool plus, size_t *used)
{
	if (off != listing->off) {
		seekdir(listing->dir, off);
		listing->ahead = NULL;
		listing->off = off;
	}
	for (;;) {
		size_t added;

		if (!listing->ahead) {
			errno = 0;
			listing->ahead = readdir(listing->dir);
			if (!listing->ahead)
				return -errno;
		}
		added = add_entry(req, node, listing, buffer + *used, size - *used, plus);
		if (added > size - *used)
			return 0;
		*used += added;
		listing->off = listing->ahead->d_off;
		listing->ahead = NULL;
	}
}

static void list(fuse_req_t req, struct node *node, size_t size, off_t off, struct fuse_file_info *info, bool plus)
{
	struct listing *listing = listing_of(info);
	cleanup_free char *buffer = malloc(size);
	size_t used = 0;
	int ret;

	if (!buffer) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (!listing) {
		used = control_root_list(req, buffer, size, off, plus);
		fuse_reply_buf(req, buffer, used);
		return;
	}
	pthread_mutex_lock(&listing->lock);
	ret = fill(req, node, listing, buffer, size, off, plus, &used);
	pthread_mutex_unlock(&listing->lock);
	/* What was looked up must reach the kernel, or its lookups would never be forgotten. */
	if (ret < 0 && used == 0)
		fuse_reply_err(req, -ret);
	else
		fuse_reply_buf(req, buffer, used);
}

void fs_readdir(fuse_req_t req, fuse_ino_t number, size_t size, off_t off, struct fuse_file_info *info)
{
	list(req, node_of(number), size, off, info, false);
}

void fs_readdirplus(fuse_req_t req, fuse_ino_t number, size_t size, off_t off, struct fuse_file_info *info)
{
	list(req, node_of(number), size, off, info, true);
}

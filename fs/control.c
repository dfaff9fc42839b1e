/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fs/open_image.h"
#include "fs/resolve.h"
#include "fs/store.h"
#include "mapdb/cleanup.h"
#include "mapdb/lock_table.h"
#include "mapdb/shown_inode.h"

/* Inode numbers in the mount that belong to nothing in the store. */
#define CONTROL_INO_FIRST (UINT64_C(1) << 62)
#define MIRROR_INO_BIT    (UINT64_C(1) << 61)

enum { INO_ROOT, INO_STORE, INO_COPIES };

static struct node *control_root, *store_link, *db_directory;
static atomic_uint_fast64_t next_copy = CONTROL_INO_FIRST + INO_COPIES;
static struct timespec started;

static int make_fixed(enum node_kind kind, ino_t ino, int fd, struct node **out)
{
	struct stat status = {.st_ino = ino};

	return node_lookup(kind, &status, fd, NULL, NULL, out);
}

static int make_mirror(int fd, struct node **out)
{
	struct stat status;

	if (fd < 0 || fstat(fd, &status) < 0) {
		int error = -errno;

		if (fd >= 0)
			close(fd);
		return error;
	}
	return node_lookup(NODE_CONTROL_DB_DIRECTORY, &status, fd, NULL, NULL, out);
}

int control_init(void)
{
	int ret = make_fixed(NODE_CONTROL_ROOT, CONTROL_INO_FIRST + INO_ROOT, -1, &control_root);

	clock_gettime(CLOCK_REALTIME, &started);
	if (ret == 0)
		ret = make_fixed(NODE_CONTROL_STORE, CONTROL_INO_FIRST + INO_STORE, -1, &store_link);
	if (ret == 0)
		ret = make_mirror(fcntl(store.dir_fd, F_DUPFD_CLOEXEC, 0), &db_directory);
	return ret;
}

void control_store_target(char *target, size_t size)
{
	snprintf(target, size, "/proc/%ld/fd/%d", (long)getpid(), store.dir_fd);
}

static void copy_attributes(const struct node *node, struct stat *status)
{
	struct stat copy;

	status->st_mode = S_IFREG | 0400;
	if (fstat(node->fd, &copy) == 0) {
		status->st_size = copy.st_size;
		status->st_blocks = copy.st_blocks;
		status->st_mtim = status->st_ctim = copy.st_mtim;
	}
}

void control_attributes(const struct node *node, struct stat *status)
{
	char target[64];

	*status = (struct stat){
	        .st_ino = node->ino,
	        .st_nlink = 1,
	        .st_uid = geteuid(),
	        .st_gid = getegid(),
	        .st_blksize = 4096,
	        .st_atim = started,
	        .st_mtim = started,
	        .st_ctim = started,
	        .st_mode = S_IFDIR | 0500,
	};
	if (node->kind == NODE_CONTROL_DB_DIRECTORY) {
		status->st_dev = node->dev;
		status->st_ino = shown_inode(status, store.dev) | MIRROR_INO_BIT;
	} else if (node->kind == NODE_CONTROL_STORE) {
		control_store_target(target, sizeof(target));
		status->st_mode = S_IFLNK | 0777;
		status->st_size = (off_t)strlen(target);
	} else if (node->kind == NODE_CONTROL_DB_COPY) {
		copy_attributes(node, status);
	}
}

/* Fills an entry for a node on which a lookup has been counted. */
static void entry_of(const struct node *node, struct fuse_entry_param *entry)
{
	entry->ino = node_number(node);
	control_attributes(node, &entry->attr);
	entry->attr_timeout = KERNEL_CACHE_SECONDS;
	/* Every lookup of a copy must make a new one. */
	entry->entry_timeout = node->kind == NODE_CONTROL_DB_COPY ? 0 : KERNEL_CACHE_SECONDS;
}

/* The fixed nodes are never forgotten: control_init has counted one lookup for itself. */
static int fixed_entry(struct node *fixed, struct fuse_entry_param *entry)
{
	struct stat status = {.st_dev = fixed->dev, .st_ino = fixed->ino};
	struct node *node;
	int ret = node_lookup(fixed->kind, &status, -1, NULL, NULL, &node);

	if (ret == 0)
		entry_of(node, entry);
	return ret;
}

int control_root_entry(struct fuse_entry_param *entry)
{
	return fixed_entry(control_root, entry);
}

static int copy_database(struct open_image *image, int copy_fd)
{
	struct map_db *db;
	int ret;

	if (!image->bundle)
		return -ENOENT;
	open_image_lock(image);
	ret = image->orphan ? -ENOENT : image_db_open(image->image, MAP_DB_NO_WAIT, &db);
	if (ret == 0) {
		ret = map_db_copy(db, store.io, copy_fd);
		map_db_close(db);
	}
	pthread_mutex_unlock(&image->change);
	return ret;
}

static int copy_of_node(struct node *bundle, int copy_fd)
{
	struct open_image *image;
	int ret = open_image_get(bundle, false, &image);

	if (ret < 0)
		return ret == -ESTALE ? -ENOENT : ret;
	ret = copy_database(image, copy_fd);
	open_image_put(image);
	return ret;
}

/* The bundle's node gets that place, which is how its image is opened. Takes resolved->fd. */
static int copy_by_opening(const struct node *mirror, const char *name, struct resolved *resolved, int copy_fd)
{
	cleanup_fd int fd = fcntl(mirror->fd, F_DUPFD_CLOEXEC, 0);
	struct node *directory, *bundle;
	struct stat status;
	int ret;

	if (fd < 0 || fstat(fd, &status) < 0)
		return -errno;
	ret = node_lookup(NODE_DIRECTORY, &status, steal_fd(&fd), NULL, NULL, &directory);
	if (ret < 0)
		return ret;
	ret = node_lookup(NODE_FILE, &resolved->status, steal_fd(&resolved->fd), directory, name, &bundle);
	if (ret == 0) {
		ret = copy_of_node(bundle, copy_fd);
		node_forget(bundle, 1);
	}
	node_forget(directory, 1);
	return ret;
}

/* A tool is at work on the bundle, whom opening the image would make stop. */
static int copy_beside_tool(const struct node *mirror, const char *name, int copy_fd)
{
	cleanup_fd int bundle_fd = store.io->open(store.io, mirror->fd, name, O_RDONLY | O_DIRECTORY, 0);
	struct map_db *db;
	int ret = bundle_fd < 0 ? bundle_fd : map_db_open(store.io, bundle_fd, MAP_DB_READ_ONLY | MAP_DB_NO_WAIT, &db);

	if (ret < 0)
		return ret == -ENOTDIR ? -ENOENT : ret; /* a file has the name by now */
	ret = map_db_copy(db, store.io, copy_fd);
	map_db_close(db);
	return ret;
}

/* The copy of the database of the bundle "name" of a store directory. */
static int lookup_copy(const struct node *mirror, const char *name, struct node **out)
{
	struct resolved resolved cleanup_resolved = {.fd = -1};
	cleanup_fd int copy_fd = -1;
	int ret = image_name_reserved(name) ? -ENOENT : resolve_name(mirror->fd, name, &resolved);

	if (ret < 0 || resolved.kind != NAME_BUNDLE)
		return ret < 0 ? ret : -ENOENT;
	copy_fd = memfd_create("zcfs-map-db-copy", MFD_CLOEXEC);
	if (copy_fd < 0)
		return -errno;
	ret = lock_leased(&resolved.status) ? copy_beside_tool(mirror, name, copy_fd)
	                                    : copy_by_opening(mirror, name, &resolved, copy_fd);
	struct stat status = {.st_ino = atomic_fetch_add(&next_copy, 1)};
	return ret < 0 ? ret : node_lookup(NODE_CONTROL_DB_COPY, &status, steal_fd(&copy_fd), NULL, NULL, out);
}

static int lookup_mirror(const struct node *mirror, const char *name, struct node **out)
{
	struct resolved resolved cleanup_resolved = {.fd = -1};
	int ret;

	if (name_hidden(mirror == db_directory ? node_root() : mirror, name))
		return -ENOENT;
	ret = resolve_name(mirror->fd, name, &resolved);
	if (ret == 0 && !S_ISDIR(resolved.status.st_mode))
		ret = -ENOENT;
	return ret < 0 ? ret : make_mirror(steal_fd(&resolved.fd), out);
}

static int lookup_in_mirror(const struct node *mirror, const char *name, struct node **out)
{
	size_t length = strlen(name), suffix = strlen(CONTROL_DB_SUFFIX);
	char bundle[NAME_MAX + 1];
	int ret = -ENOENT;

	if (length > suffix && length <= NAME_MAX && strcmp(name + length - suffix, CONTROL_DB_SUFFIX) == 0) {
		snprintf(bundle, sizeof(bundle), "%.*s", (int)(length - suffix), name);
		ret = lookup_copy(mirror, bundle, out);
	}
	return ret == -ENOENT ? lookup_mirror(mirror, name, out) : ret;
}

int control_lookup(struct node *parent, const char *name, struct fuse_entry_param *entry)
{
	struct node *node;
	int ret = -ENOENT;

	if (parent->kind == NODE_CONTROL_ROOT && strcmp(name, "store") == 0)
		return fixed_entry(store_link, entry);
	if (parent->kind == NODE_CONTROL_ROOT && strcmp(name, "db") == 0)
		return fixed_entry(db_directory, entry);
	if (parent->kind == NODE_CONTROL_DB_DIRECTORY)
		ret = lookup_in_mirror(parent, name, &node);
	if (ret == 0)
		entry_of(node, entry);
	return ret;
}

size_t control_root_list(fuse_req_t req, char *buffer, size_t size, off_t off, bool plus)
{
	static const struct {
		const char *name;
		mode_t type;
	} entries[] = {{".", S_IFDIR}, {"..", S_IFDIR}, {"db", S_IFDIR}, {"store", S_IFLNK}};
	size_t used = 0;

	for (size_t i = (size_t)off; i < sizeof(entries) / sizeof(entries[0]); i++) {
		struct fuse_entry_param entry = {.attr = {.st_mode = entries[i].type, .st_ino = CONTROL_INO_FIRST}};
		size_t added;

		if (plus)
			added = fuse_add_direntry_plus(req, buffer + used, size - used, entries[i].name, &entry,
			                               (off_t)i + 1);
		else
			added = fuse_add_direntry(req, buffer + used, size - used, entries[i].name, &entry.attr,
			                          (off_t)i + 1);
		if (added > size - used)
			break;
		used += added;
	}
	return used;
}

bool control_db_listed(const struct dirent *entry, struct stat *status, char name[])
{
	bool bundle = S_ISREG(status->st_mode) && entry->d_type == DT_DIR;

	if ((!S_ISDIR(status->st_mode) && !bundle) || image_name_reserved(entry->d_name) ||
	    strcmp(entry->d_name, CONTROL_NAME) == 0)
		return false;
	snprintf(name, NAME_MAX + sizeof(CONTROL_DB_SUFFIX), "%s%s", entry->d_name, bundle ? CONTROL_DB_SUFFIX : "");
	status->st_ino |= bundle ? CONTROL_INO_FIRST : MIRROR_INO_BIT;
	return strlen(name) <= NAME_MAX;
}

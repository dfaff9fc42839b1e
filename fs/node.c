/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/node.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "fs/store.h"
#include "mapdb/cleanup.h"

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static void *table; /* tsearch(3) tree of struct node */
static struct node *root;
static struct node *dropped; /* no more in the table, and nobody's; linked by their parents */

/* Control directories mirror directories of the store, so the same inode may be known twice: as itself and as mirror.
 */
static int key_space(enum node_kind kind)
{
	return kind >= NODE_CONTROL_ROOT ? (int)kind : 0;
}

static int compare(const void *left, const void *right)
{
	const struct node *a = left, *b = right;

	if (a->ino != b->ino)
		return a->ino < b->ino ? -1 : 1;
	if (a->dev != b->dev)
		return a->dev < b->dev ? -1 : 1;
	return key_space(a->kind) - key_space(b->kind);
}

int node_table_init(int dir_fd)
{
	struct stat status;
	struct node *node;
	int fd, ret;

	if (fstat(dir_fd, &status) < 0)
		return -errno;
	fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	ret = node_lookup(NODE_DIRECTORY, &status, fd, NULL, NULL, &node);
	if (ret == 0)
		root = node;
	return ret;
}

struct node *node_root(void)
{
	return root;
}

struct node *node_of(fuse_ino_t number)
{
	return number == FUSE_ROOT_ID ? root : (struct node *)(uintptr_t)number;
}

double attribute_seconds(const struct node *node)
{
	return node->kind == NODE_FILE ? 0 : KERNEL_CACHE_SECONDS;
}

fuse_ino_t node_number(const struct node *node)
{
	return node == root ? FUSE_ROOT_ID : (fuse_ino_t)(uintptr_t)node;
}

static struct node *find_locked(enum node_kind kind, const struct stat *status)
{
	struct node key = {.kind = kind, .dev = status->st_dev, .ino = status->st_ino};
	void *found = tfind(&key, &table, compare);

	return found ? *(struct node **)found : NULL;
}

/* Takes the node out of the table if nothing holds it, and then perhaps its parent, and so on. Called with the lock
 * held. */
static void drop_if_unused(struct node *node)
{
	while (node && node->lookups == 0 && node->references == 0) {
		struct node *parent = node->parent;

		tdelete(node, &table, compare);
		node->parent = dropped;
		dropped = node;
		if (parent)
			parent->references--;
		node = parent;
	}
}

static void free_nodes(struct node *list)
{
	while (list) {
		struct node *node = list;

		list = node->parent;
		if (node->fd >= 0)
			close(node->fd);
		free(node->name);
		free(node->error);
		free(node);
	}
}

/* And only then frees what was dropped: of a removed image the last close() gives back all its blocks, for which others
 * must not have to wait. */
static void unlock_table(void)
{
	struct node *list = dropped;

	dropped = NULL;
	pthread_mutex_unlock(&table_lock);
	free_nodes(list);
}

static int set_place_locked(struct node *node, struct node *parent, const char *name)
{
	struct node *old_parent = node->parent;
	char *copy;

	if (node->parent == parent && node->name && strcmp(node->name, name) == 0)
		return 0;
	copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	free(node->name);
	node->name = copy;
	node->parent = parent;
	parent->references++;
	if (old_parent) {
		old_parent->references--;
		drop_if_unused(old_parent);
	}
	return 0;
}

/* Each file that the kernel has looked up keeps a descriptor until the kernel forgets it, which it does when it needs
 * memory. However many they are, a quarter of all descriptors is left for open images and their databases. */
static bool leaves_enough(int fd)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_NOFILE, &limit) < 0 || (rlim_t)fd < limit.rlim_cur - limit.rlim_cur / 4;
}

int node_check_room(void)
{
	cleanup_fd int fd = fcntl(root->fd, F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	return leaves_enough(fd) ? 0 : -ENFILE;
}

static int insert_locked(enum node_kind kind, const struct stat *status, int *fd, struct node **out)
{
	struct node *node;

	if (*fd >= 0 && !leaves_enough(*fd))
		return -ENFILE;
	node = calloc(1, sizeof(*node));
	if (!node)
		return -ENOMEM;
	node->kind = kind;
	node->dev = status->st_dev;
	node->ino = status->st_ino;
	node->fd = *fd;
	if (!tsearch(node, &table, compare)) {
		free(node);
		return -ENOMEM;
	}
	steal_fd(fd);
	*out = node;
	return 0;
}

int node_lookup(enum node_kind kind, const struct stat *status, int fd, struct node *parent, const char *name,
                struct node **out)
{
	cleanup_fd int owned_fd = fd;
	struct node *node;
	int ret = 0;

	pthread_mutex_lock(&table_lock);
	node = find_locked(kind, status);
	if (!node)
		ret = insert_locked(kind, status, &owned_fd, &node);
	if (ret == 0) {
		node->lookups++;
		if (kind == NODE_FILE && parent)
			ret = set_place_locked(node, parent, name);
		if (ret < 0) {
			node->lookups--;
			drop_if_unused(node);
		} else {
			*out = node;
		}
	}
	unlock_table();
	return ret;
}

struct node *node_find(const struct stat *status)
{
	struct node *node;

	pthread_mutex_lock(&table_lock);
	node = find_locked(NODE_FILE, status);
	if (node)
		node->references++;
	unlock_table();
	return node;
}

void node_forget(struct node *node, uint64_t lookups)
{
	if (node == root)
		return;
	pthread_mutex_lock(&table_lock);
	assert(node->lookups >= lookups);
	node->lookups -= lookups;
	drop_if_unused(node);
	unlock_table();
}

struct node *node_ref(struct node *node)
{
	pthread_mutex_lock(&table_lock);
	node->references++;
	unlock_table();
	return node;
}

void node_unref(struct node *node)
{
	if (!node)
		return;
	pthread_mutex_lock(&table_lock);
	assert(node->references > 0);
	node->references--;
	drop_if_unused(node);
	unlock_table();
}

int node_place(struct node *node, struct node **parent, char name[NAME_MAX + 1])
{
	int ret = -ESTALE;

	pthread_mutex_lock(&table_lock);
	size_t length = node->parent ? strlen(node->name) : 0;
	if (node->parent && length <= NAME_MAX) {
		memcpy(name, node->name, length + 1);
		node->parent->references++;
		*parent = node->parent;
		ret = 0;
	}
	unlock_table();
	return ret;
}

void node_set_place(struct node *node, struct node *parent, const char *name)
{
	pthread_mutex_lock(&table_lock);
	/* Without memory the old place stays; opening by it gives -ESTALE, and the kernel looks the name up again. */
	(void)set_place_locked(node, parent, name);
	unlock_table();
}

void node_clear_place(struct node *node, struct node *parent, const char *name)
{
	pthread_mutex_lock(&table_lock);
	if (node->parent == parent && strcmp(node->name, name) == 0) {
		free(node->name);
		node->name = NULL;
		node->parent = NULL;
		parent->references--;
		drop_if_unused(parent);
	}
	unlock_table();
}

bool node_bundle_size_get(struct node *node, const struct stat *db_status, uint64_t *image_size)
{
	const struct bundle_size *size = &node->bundle_size;
	bool good;

	pthread_mutex_lock(&table_lock);
	good = size->known && size->db_ino == db_status->st_ino && size->db_size == db_status->st_size &&
	       size->db_ctime.tv_sec == db_status->st_ctim.tv_sec &&
	       size->db_ctime.tv_nsec == db_status->st_ctim.tv_nsec;
	if (good)
		*image_size = size->image_size;
	unlock_table();
	return good;
}

void node_bundle_size_set(struct node *node, const struct stat *db_status, uint64_t image_size)
{
	pthread_mutex_lock(&table_lock);
	node->bundle_size = (struct bundle_size){
	        .known = true,
	        .db_ino = db_status->st_ino,
	        .db_size = db_status->st_size,
	        .db_ctime = db_status->st_ctim,
	        .image_size = image_size,
	};
	unlock_table();
}

void node_bundle_size_forget(struct node *node)
{
	pthread_mutex_lock(&table_lock);
	node->bundle_size.known = false;
	unlock_table();
}

bool node_error_set(struct node *node, const char *error)
{
	char *copy = error ? strdup(error) : NULL;
	bool changed;

	pthread_mutex_lock(&table_lock);
	changed = !copy != !node->error || (copy && strcmp(copy, node->error) != 0);
	free(node->error);
	node->error = copy;
	unlock_table();
	return changed;
}

bool node_error_get(struct node *node, char *error, size_t size)
{
	bool known;

	pthread_mutex_lock(&table_lock);
	known = node->error;
	if (known)
		snprintf(error, size, "%s", node->error);
	unlock_table();
	return known;
}

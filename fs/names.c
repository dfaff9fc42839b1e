/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * names: looking names up, making what is no image, removing directories.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fs/caller.h"
#include "fs/control.h"
#include "fs/node.h"
#include "fs/operations.h"
#include "fs/resolve.h"
#include "fs/store.h"
#include "fs/waiting.h"
#include "mapdb/cleanup.h"
#include "mapdb/shown_inode.h"

static enum node_kind kind_of(const struct resolved *resolved)
{
	if (resolved->kind != NAME_OTHER)
		return NODE_FILE;
	return S_ISDIR(resolved->status.st_mode) ? NODE_DIRECTORY : NODE_OTHER;
}

int entry_lookup(struct node *parent, const char *name, struct fuse_entry_param *entry)
{
	struct resolved resolved cleanup_resolved = {.fd = -1};
	struct node *node;
	int ret;

	memset(entry, 0, sizeof(*entry));
	entry->entry_timeout = KERNEL_CACHE_SECONDS;
	if (parent->kind != NODE_DIRECTORY)
		return control_lookup(parent, name, entry);
	if (parent == node_root() && strcmp(name, CONTROL_NAME) == 0)
		return control_root_entry(entry);
	if (image_name_reserved(name))
		return -ENOENT;

	ret = resolve_name(parent->fd, name, &resolved);
	if (ret == 0)
		ret = resolve_image_size(parent->fd, name, &resolved);
	if (ret == 0)
		ret = node_lookup(kind_of(&resolved), &resolved.status, steal_fd(&resolved.fd), parent, name, &node);
	if (ret < 0)
		return ret;
	entry->ino = node_number(node);
	entry->attr = resolved.status;
	entry->attr.st_ino = shown_inode(&resolved.status, store.dev);
	entry->attr_timeout = attribute_seconds(node);
	return 0;
}

int name_check_new(const struct node *parent, const char *name)
{
	return parent->kind != NODE_DIRECTORY || name_hidden(parent, name) ? -EPERM : 0;
}

int name_check_made(const struct node *parent, const char *name)
{
	int ret = name_check_new(parent, name);

	return ret < 0 ? ret : node_check_room();
}

static void reply_entry(fuse_req_t req, int error, const struct fuse_entry_param *entry)
{
	if (error)
		fuse_reply_err(req, -error);
	else if (fuse_reply_entry(req, entry) == -ENOENT) /* interrupted: the kernel does not know of the lookup */
		node_forget(node_of(entry->ino), 1);
}

struct lookup_call {
	struct waiting waiting;
	struct node *parent;
	char name[NAME_MAX + 1];
};

static int lookup_attempt(struct waiting *waiting)
{
	struct lookup_call *call = (struct lookup_call *)waiting;
	struct fuse_entry_param entry;
	int ret = entry_lookup(call->parent, call->name, &entry);

	if (ret == 0)
		reply_entry(waiting->req, 0, &entry);
	return held_if_busy(ret);
}

static void lookup_release(struct waiting *waiting)
{
	struct lookup_call *call = (struct lookup_call *)waiting;

	node_unref(call->parent);
	free(call);
}

/* The copy of a database, or the size of a bundle, may have to wait for a tool. */
static void lookup_later(fuse_req_t req, struct node *parent, const char *name)
{
	struct lookup_call *call = calloc(1, sizeof(*call));

	if (!call) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	call->waiting = (struct waiting){.req = req, .attempt = lookup_attempt, .release = lookup_release};
	call->parent = node_ref(parent);
	snprintf(call->name, sizeof(call->name), "%s", name);
	waiting_run(&call->waiting);
}

void fs_lookup(fuse_req_t req, fuse_ino_t parent_number, const char *name)
{
	struct node *parent = node_of(parent_number);
	struct fuse_entry_param entry;
	int ret = strlen(name) > NAME_MAX ? -ENAMETOOLONG : entry_lookup(parent, name, &entry);

	if (ret == -EBUSY)
		lookup_later(req, parent, name);
	else
		reply_entry(req, ret, &entry);
}

void fs_forget(fuse_req_t req, fuse_ino_t number, uint64_t lookups)
{
	node_forget(node_of(number), lookups);
	fuse_reply_none(req);
}

void fs_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		node_forget(node_of(forgets[i].ino), forgets[i].nlookup);
	fuse_reply_none(req);
}

/* Answers a request that has made, or failed to make, a name. */
static void reply_made(fuse_req_t req, struct node *parent, const char *name, int error)
{
	struct fuse_entry_param entry;

	if (error == 0)
		error = entry_lookup(parent, name, &entry);
	reply_entry(req, error, &entry);
}

void fs_mknod(fuse_req_t req, fuse_ino_t parent_number, const char *name, mode_t mode, dev_t rdev)
{
	struct node *parent = node_of(parent_number);
	int ret = name_check_made(parent, name);

	if (ret == 0)
		ret = caller_become(req);
	if (ret == 0 && TEMP_FAILURE_RETRY(mknodat(parent->fd, name, mode, rdev)) < 0)
		ret = -errno;
	caller_leave();
	reply_made(req, parent, name, ret);
}

void fs_mkdir(fuse_req_t req, fuse_ino_t parent_number, const char *name, mode_t mode)
{
	struct node *parent = node_of(parent_number);
	int ret = name_check_made(parent, name);

	if (ret == 0)
		ret = caller_become(req);
	if (ret == 0 && TEMP_FAILURE_RETRY(mkdirat(parent->fd, name, mode)) < 0)
		ret = -errno;
	caller_leave();
	reply_made(req, parent, name, ret);
}

void fs_symlink(fuse_req_t req, const char *target, fuse_ino_t parent_number, const char *name)
{
	struct node *parent = node_of(parent_number);
	int ret = name_check_made(parent, name);

	if (ret == 0)
		ret = caller_become(req);
	if (ret == 0 && TEMP_FAILURE_RETRY(symlinkat(target, parent->fd, name)) < 0)
		ret = -errno;
	caller_leave();
	reply_made(req, parent, name, ret);
}

void fs_readlink(fuse_req_t req, fuse_ino_t number)
{
	struct node *node = node_of(number);
	char target[PATH_MAX];
	ssize_t length;

	if (node->kind == NODE_CONTROL_STORE) {
		control_store_target(target, sizeof(target));
		fuse_reply_readlink(req, target);
		return;
	}
	length = readlinkat(node->fd, "", target, sizeof(target) - 1);
	if (length < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	target[length] = '\0';
	fuse_reply_readlink(req, target);
}

/* A directory that looks empty in the mount may still hold what a crash has left of an adoption. */
static int remove_left_overs(int parent_fd, const char *name)
{
	cleanup_fd int fd = store.io->open(store.io, parent_fd, name, O_RDONLY | O_DIRECTORY, 0);
	unsigned int removed = 0;
	int ret;

	if (fd < 0)
		return fd;
	ret = image_clean_stale(store.io, fd, &removed, NULL);
	if (ret < 0)
		return ret;
	return removed > 0 ? 0 : -ENOTEMPTY;
}

static int remove_directory(fuse_req_t req, struct node *parent, const char *name)
{
	struct resolved resolved cleanup_resolved = {.fd = -1};
	int ret;

	if (parent->kind != NODE_DIRECTORY || (parent == node_root() && strcmp(name, CONTROL_NAME) == 0))
		return -EPERM;
	if (image_name_reserved(name))
		return -ENOENT;
	ret = resolve_name(parent->fd, name, &resolved);
	if (ret < 0)
		return ret;
	if (!S_ISDIR(resolved.status.st_mode)) /* a bundle's status is its data's */
		return -ENOTDIR;
	ret = caller_check_sticky(req, parent->fd, &resolved.status);
	if (ret < 0)
		return ret;
	ret = store.io->unlink(store.io, parent->fd, name, AT_REMOVEDIR);
	if (ret == -ENOTEMPTY && remove_left_overs(parent->fd, name) == 0)
		ret = store.io->unlink(store.io, parent->fd, name, AT_REMOVEDIR);
	return ret;
}

void fs_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, -remove_directory(req, node_of(parent), name));
}

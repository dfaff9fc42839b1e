/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * rename: unlink, link and rename, where the name may be that of an image.
 *
 * A tool that adopts an image exchanges two names while it holds the image's lock. Nobody may put another file under
 * the name, or take it away, just then: so each of these requests holds the lock of the images concerned, shared, while
 * it works, and looks again under the lock at what the names mean. If a tool has the lock, the request waits
 * (fs/waiting.h).
 *
 * Hard links exist only between plain images: a bundle's data file must have no other name, under which its bytes would
 * show scrambled. link() on a bundle fails with EPERM, as on a file system without hard links.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "fs/caller.h"
#include "fs/host_file.h"
#include "fs/node.h"
#include "fs/open_image.h"
#include "fs/operations.h"
#include "fs/resolve.h"
#include "fs/store.h"
#include "fs/waiting.h"
#include "mapdb/cleanup.h"

/* Between resolving a name and locking what it meant, a tool can change it. It does not do so many times running. */
#define GUARD_ATTEMPTS 16

/* A name, what it means, and the lock that keeps tools from it. */
struct guarded {
	struct resolved resolved;
	int lock_fd;
	struct open_image *open; /* of a bundle that is in use */
};

static void guarded_release(struct guarded *guarded)
{
	if (guarded->open) {
		pthread_mutex_unlock(&guarded->open->change);
		open_image_put(guarded->open);
	}
	if (guarded->lock_fd >= 0)
		close(guarded->lock_fd);
	resolved_release(&guarded->resolved);
}

#define cleanup_guarded __attribute__((cleanup(guarded_release)))
#define UNGUARDED       ((struct guarded){.resolved.fd = -1, .lock_fd = -1})

/* STILL_HELD: by a tool. */
static int lock_data(int path_fd, int *lock_fd)
{
	/* O_NONBLOCK: a tool's lease makes open() wait otherwise. */
	cleanup_fd int fd = host_open_again(path_fd, O_RDONLY | O_NONBLOCK);

	if (fd < 0)
		/* Whoever may not read the file cannot lock it; nor can a tool of the same user be at work on it. */
		return fd == -EWOULDBLOCK ? STILL_HELD : fd == -EACCES || fd == -EPERM ? 0 : fd;
	if (flock(fd, LOCK_SH | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? STILL_HELD : -errno;
	*lock_fd = steal_fd(&fd);
	return 0;
}

/* The library also makes the change durable, for which it needs a descriptor that is more than a path. */
static int open_directory(const struct node *node)
{
	return store.io->open(store.io, node->fd, ".", O_RDONLY | O_DIRECTORY, 0);
}

/* What a change that was cut short has left beside an image would be nobody's without the name. An image that is open
 * has none left: opening sees to that. */
static void clean_leftovers(const struct node *parent, const struct resolved *resolved)
{
	cleanup_fd int parent_fd = -1;

	if (resolved->kind == NAME_OTHER || (resolved->kind == NAME_FILE && resolved->status.st_nlink == 1))
		return;
	parent_fd = open_directory(parent);
	if (parent_fd >= 0)
		image_clean_stale(store.io, parent_fd, NULL, NULL);
}

/* Resolves and locks. -ENOENT: no such name; STILL_HELD: to be tried again. */
static int guard(struct node *parent, const char *name, struct guarded *out)
{
	for (int i = 0; i < GUARD_ATTEMPTS; i++) {
		struct guarded first cleanup_guarded = UNGUARDED;
		int ret = resolve_name(parent->fd, name, &first.resolved);

		if (ret < 0)
			return ret;
		clean_leftovers(parent, &first.resolved);
		if (first.resolved.kind != NAME_OTHER) {
			ret = lock_data(first.resolved.fd, &first.lock_fd);
			if (ret < 0)
				return ret;
		}
		ret = resolve_name(parent->fd, name, &out->resolved);
		if (ret < 0)
			return ret;
		if (out->resolved.kind == first.resolved.kind &&
		    out->resolved.status.st_ino == first.resolved.status.st_ino &&
		    out->resolved.status.st_dev == first.resolved.status.st_dev) {
			out->lock_fd = steal_fd(&first.lock_fd);
			return 0;
		}
		resolved_release(&out->resolved);
	}
	return STILL_HELD;
}

/* The same for a name that req is to take away from what it means. */
static int guard_victim(fuse_req_t req, struct node *parent, const char *name, struct guarded *out)
{
	int ret = guard(parent, name, out);

	return ret < 0 ? ret : caller_check_sticky(req, parent->fd, &out->resolved.status);
}

/* A bundle that is about to lose its name for good, while open: its size may change later, its database is gone. */
static void hold_database(struct guarded *victim)
{
	struct node *node;

	if (victim->resolved.kind != NAME_BUNDLE)
		return;
	node = node_find(&victim->resolved.status);
	if (!node)
		return;
	victim->open = open_image_peek(node);
	node_unref(node);
	if (victim->open)
		open_image_lock(victim->open);
}

static void victim_is_gone(const struct guarded *victim)
{
	if (victim->open)
		victim->open->orphan = true;
}

/* Tells the node where it is now. */
static void moved(const struct guarded *what, struct node *parent, const char *name)
{
	struct node *node = what->resolved.kind == NAME_OTHER ? NULL : node_find(&what->resolved.status);

	if (node) {
		node_set_place(node, parent, name);
		node_unref(node);
	}
}

static void lost(const struct guarded *what, struct node *parent, const char *name)
{
	struct node *node = what->resolved.kind == NAME_OTHER ? NULL : node_find(&what->resolved.status);

	if (node) {
		node_clear_place(node, parent, name);
		node_unref(node);
	}
}

static int unlink_name(fuse_req_t req, struct node *parent, const char *name)
{
	struct guarded victim cleanup_guarded = UNGUARDED;
	cleanup_fd int parent_fd = -1;
	int ret = guard_victim(req, parent, name, &victim);

	if (ret < 0)
		return ret;
	if (victim.resolved.kind == NAME_BUNDLE) {
		parent_fd = open_directory(parent);
		if (parent_fd < 0)
			return parent_fd;
		hold_database(&victim);
		ret = image_unlink_bundle(store.io, parent_fd, name);
		if (ret == 0)
			victim_is_gone(&victim);
	} else {
		ret = store.io->unlink(store.io, parent->fd, name, 0);
	}
	if (ret == 0)
		lost(&victim, parent, name);
	return ret;
}

static int link_name(struct node *node, struct node *parent, const char *name)
{
	struct guarded source cleanup_guarded = UNGUARDED;
	char old_name[NAME_MAX + 1], path[64];
	struct node *old_parent;
	int ret;

	if (node->kind == NODE_FILE) {
		ret = node_place(node, &old_parent, old_name);
		if (ret < 0)
			return ret;
		ret = guard(old_parent, old_name, &source);
		node_unref(old_parent);
		if (ret < 0)
			return ret == -ENOENT ? -ESTALE : ret;
		if (source.resolved.status.st_ino != node->ino || source.resolved.status.st_dev != node->dev)
			return -ESTALE;
		if (source.resolved.kind == NAME_BUNDLE)
			return -EPERM;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", node->fd);
	if (TEMP_FAILURE_RETRY(linkat(AT_FDCWD, path, parent->fd, name, AT_SYMLINK_FOLLOW)) < 0)
		return -errno;
	return 0;
}

/* Something that is no image takes a bundle's name: there is no single call for that. */
static int replace_bundle_by_other(int old_fd, const char *old_name, int new_fd, const char *new_name)
{
	int ret = store.io->rename(store.io, old_fd, old_name, new_fd, new_name, RENAME_EXCHANGE);

	return ret < 0 ? ret : image_unlink_bundle(store.io, old_fd, old_name);
}

static int replace(struct node *old_parent, const char *old_name, const struct guarded *source, struct node *new_parent,
                   const char *new_name, struct guarded *victim)
{
	bool source_directory = S_ISDIR(source->resolved.status.st_mode);
	cleanup_fd int old_fd = -1, new_fd = -1;
	int ret;

	if (source->resolved.kind != NAME_BUNDLE && victim->resolved.kind != NAME_BUNDLE)
		return store.io->rename(store.io, old_parent->fd, old_name, new_parent->fd, new_name, 0);
	/* To the caller a bundle is a file. */
	if (source_directory)
		return -ENOTDIR;
	if (S_ISDIR(victim->resolved.status.st_mode))
		return -EISDIR;
	old_fd = open_directory(old_parent);
	new_fd = open_directory(new_parent);
	if (old_fd < 0 || new_fd < 0)
		return old_fd < 0 ? old_fd : new_fd;
	hold_database(victim);
	if (source->resolved.kind == NAME_OTHER)
		ret = replace_bundle_by_other(old_fd, old_name, new_fd, new_name);
	else if (victim->resolved.kind == NAME_OTHER) /* a bundle over a symbolic link or the like */
		ret = store.io->rename(store.io, old_fd, old_name, new_fd, new_name, RENAME_EXCHANGE)
		              ?: store.io->unlink(store.io, old_fd, old_name, 0);
	else
		ret = image_rename_replace(store.io, old_fd, old_name, new_fd, new_name);
	if (ret == 0)
		victim_is_gone(victim);
	return ret == -EAGAIN ? STILL_HELD : ret; /* somebody changes the names below the mount */
}

static int rename_name(fuse_req_t req, struct node *old_parent, const char *old_name, struct node *new_parent,
                       const char *new_name, unsigned int flags)
{
	struct guarded source cleanup_guarded = UNGUARDED, victim cleanup_guarded = UNGUARDED;
	int ret = guard_victim(req, old_parent, old_name, &source);

	if (ret < 0)
		return ret;
	ret = guard_victim(req, new_parent, new_name, &victim);
	if (ret == -ENOENT) {
		if (flags & RENAME_EXCHANGE)
			return ret;
		ret = store.io->rename(store.io, old_parent->fd, old_name, new_parent->fd, new_name, RENAME_NOREPLACE);
		if (ret == -EINVAL) /* a host that cannot; the kernel holds both directories for us */
			ret = store.io->rename(store.io, old_parent->fd, old_name, new_parent->fd, new_name, 0);
	} else if (ret < 0) {
		return ret;
	} else if (flags & RENAME_NOREPLACE) {
		return -EEXIST;
	} else if (flags & RENAME_EXCHANGE) {
		ret = store.io->rename(store.io, old_parent->fd, old_name, new_parent->fd, new_name, RENAME_EXCHANGE);
		if (ret == 0)
			moved(&victim, old_parent, old_name);
	} else if (source.resolved.kind != NAME_OTHER &&
	           source.resolved.status.st_ino == victim.resolved.status.st_ino &&
	           source.resolved.status.st_dev == victim.resolved.status.st_dev) {
		return 0; /* two links of one file: rename(2) does nothing */
	} else {
		ret = replace(old_parent, old_name, &source, new_parent, new_name, &victim);
		if (ret == 0)
			lost(&victim, new_parent, new_name);
	}
	if (ret == 0)
		moved(&source, new_parent, new_name);
	return ret;
}

enum name_operation { NAME_UNLINK, NAME_LINK, NAME_RENAME };

struct name_call {
	struct waiting waiting;
	enum name_operation operation;
	struct node *node; /* LINK: of what; else the old parent */
	struct node *new_parent;
	unsigned int flags;
	char name[NAME_MAX + 1], new_name[NAME_MAX + 1];
};

static void name_call_release(struct waiting *waiting)
{
	struct name_call *call = (struct name_call *)waiting;

	node_unref(call->node);
	node_unref(call->new_parent);
	free(call);
}

static int link_and_reply(struct name_call *call)
{
	struct fuse_entry_param entry;
	int ret = link_name(call->node, call->new_parent, call->new_name);

	if (ret == 0)
		ret = entry_lookup(call->new_parent, call->new_name, &entry);
	if (ret == 0 && fuse_reply_entry(call->waiting.req, &entry) == -ENOENT)
		node_forget(node_of(entry.ino), 1);
	return ret;
}

static int name_call_attempt(struct waiting *waiting)
{
	struct name_call *call = (struct name_call *)waiting;
	int ret;

	if (call->operation == NAME_LINK)
		return link_and_reply(call);
	if (call->operation == NAME_UNLINK)
		ret = unlink_name(waiting->req, call->node, call->name);
	else
		ret = rename_name(waiting->req, call->node, call->name, call->new_parent, call->new_name, call->flags);
	if (ret == 0)
		fuse_reply_err(waiting->req, 0);
	return ret;
}

static void name_call_run(fuse_req_t req, enum name_operation operation, struct node *node, const char *name,
                          struct node *new_parent, const char *new_name, unsigned int flags)
{
	struct name_call *call = calloc(1, sizeof(*call));

	if (!call) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	call->waiting = (struct waiting){.req = req, .attempt = name_call_attempt, .release = name_call_release};
	call->operation = operation;
	call->node = node_ref(node);
	call->new_parent = new_parent ? node_ref(new_parent) : NULL;
	call->flags = flags;
	snprintf(call->name, sizeof(call->name), "%s", name);
	snprintf(call->new_name, sizeof(call->new_name), "%s", new_name);
	waiting_run(&call->waiting);
}

/* Existing names that the mount does not show, or does not let go. */
static int check_existing(const struct node *parent, const char *name)
{
	if (parent->kind != NODE_DIRECTORY || (parent == node_root() && strcmp(name, CONTROL_NAME) == 0))
		return -EPERM;
	return image_name_reserved(name) ? -ENOENT : strlen(name) > NAME_MAX ? -ENAMETOOLONG : 0;
}

static int check_new(const struct node *parent, const char *name)
{
	return strlen(name) > NAME_MAX ? -ENAMETOOLONG : name_check_new(parent, name);
}

void fs_unlink(fuse_req_t req, fuse_ino_t parent_number, const char *name)
{
	struct node *parent = node_of(parent_number);
	int ret = check_existing(parent, name);

	if (ret < 0)
		fuse_reply_err(req, -ret);
	else
		name_call_run(req, NAME_UNLINK, parent, name, NULL, "", 0);
}

void fs_link(fuse_req_t req, fuse_ino_t number, fuse_ino_t parent_number, const char *name)
{
	struct node *node = node_of(number), *parent = node_of(parent_number);
	int ret = check_new(parent, name);

	if (ret == 0 && node->kind != NODE_FILE && node->kind != NODE_OTHER)
		ret = -EPERM;
	if (ret < 0)
		fuse_reply_err(req, -ret);
	else
		name_call_run(req, NAME_LINK, node, "", parent, name, 0);
}

void fs_rename(fuse_req_t req, fuse_ino_t parent_number, const char *name, fuse_ino_t new_parent_number,
               const char *new_name, unsigned int flags)
{
	struct node *parent = node_of(parent_number), *new_parent = node_of(new_parent_number);
	int ret = check_existing(parent, name);

	if (ret == 0)
		ret = check_new(new_parent, new_name);
	if (ret == 0 && flags != 0 && flags != RENAME_NOREPLACE && flags != RENAME_EXCHANGE)
		ret = -EINVAL;
	if (ret < 0)
		fuse_reply_err(req, -ret);
	else
		name_call_run(req, NAME_RENAME, parent, name, new_parent, new_name, flags);
}

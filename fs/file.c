/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * file: open files: the requests that come with a handle. A handle is a reference to the inode's open image; all that
 * the handles of one inode have in common is there. A handle on a copy of a database is the node itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "fs/caller.h"
#include "fs/file_handle.h"
#include "fs/log.h"
#include "fs/node.h"
#include "fs/open_image.h"
#include "fs/operations.h"
#include "fs/resize.h"
#include "fs/store.h"
#include "fs/waiting.h"
#include "mapdb/cleanup.h"

/* How often, a millisecond apart, to try again to make what somebody else has just made. */
#define MAKE_AGAIN 5

/* ---- opening ---- */

struct open_call {
	struct waiting waiting;
	struct node *node;
	struct fuse_file_info info;
	bool create;   /* answer with entry, too; the file is new: nothing to truncate */
	bool set_mode; /* to final_mode, now that it is open */
	mode_t final_mode;
	struct fuse_entry_param entry; /* holds a lookup on node until it is answered */
};

static void set_open_flags(struct open_image *image, struct fuse_file_info *info)
{
	if (!(info->flags & O_DIRECT) && !open_image_uncached(image))
		return;
	info->direct_io = 1;
#ifdef ZCFS_FUSE_PARALLEL_DIRECT_WRITES
	info->parallel_direct_writes = 1;
#endif
}

/* What the kernel kept from earlier opens may be from before a change of the map: it goes. Not once others write
 * through that cache: the kernel sends what was written without holding on to the pages, and one that is dropped just
 * then may be read in again before the write arrives, and stay old. By then nothing can be old: whoever has written
 * first has dropped it with his own open, which the kernel does after the answer. (So it does not do to ask whether it
 * is open already: the others may not have got to it.) Only if something was written past the cache whoever opens the
 * image is to see that. */
static bool may_keep_cache(struct open_image *image)
{
	return atomic_load(&image->written_cached) && !atomic_load(&image->written_directly) &&
	       !passthrough_in_use(&image->passthrough);
}

static int open_reply(struct open_call *call)
{
	struct open_image *image = open_image_of(&call->info);
	int ret;

	if (call->create)
		ret = fuse_reply_create(call->waiting.req, &call->entry, &call->info);
	else
		ret = fuse_reply_open(call->waiting.req, &call->info);
	if (ret == -ENOENT) /* interrupted: there will be no release */
		open_image_put(image);
	else
		call->create = false; /* the lookup is the kernel's now */
	return 0;
}

static int open_attempt(struct waiting *waiting)
{
	struct open_call *call = (struct open_call *)waiting;
	int flags = call->info.flags, ret;
	struct open_image *image;

	ret = open_image_get(call->node, (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC), &image);
	if (ret < 0)
		return held_if_busy(ret);
	if (call->set_mode && fchmod(image->image->data_fd, call->final_mode) < 0)
		ret = -errno;
	if (ret == 0 && (flags & O_TRUNC) && !call->create)
		ret = held_if_busy(resize_image(image, 0));
	if (ret < 0) {
		open_image_put(image);
		return ret;
	}
	/* Where the kernel does not say so, it has left O_TRUNC entirely to us. */
	if ((flags & O_TRUNC) && (kills_privileges(&call->info) || fuse_req_ctx(waiting->req)->uid != 0))
		open_image_drop_privileges(image);
	if (call->create)
		call->entry.attr.st_size = flags & O_TRUNC ? 0 : call->entry.attr.st_size;
	if (call->set_mode)
		call->entry.attr.st_mode = S_IFREG | call->final_mode;
	call->info.fh = (uintptr_t)image;
	atomic_store_explicit(&image->handed_out, true, memory_order_release);
	passthrough_decide(&image->passthrough, !image->bundle, image->image->data_fd);
	open_image_choose_cache(image, flags);
	set_open_flags(image, &call->info);
	passthrough_tell(&image->passthrough, &call->info, direct_file_takes_sectors(&image->direct));
	call->info.keep_cache = may_keep_cache(image);
	return open_reply(call);
}

static void open_release(struct waiting *waiting)
{
	struct open_call *call = (struct open_call *)waiting;

	if (call->create)
		node_forget(call->node, 1);
	node_unref(call->node);
	free(call);
}

static struct open_call *open_call_new(fuse_req_t req, struct node *node, const struct fuse_file_info *info)
{
	struct open_call *call = calloc(1, sizeof(*call));

	if (!call)
		return NULL;
	call->waiting = (struct waiting){.req = req, .attempt = open_attempt, .release = open_release};
	call->node = node_ref(node);
	call->info = *info;
	return call;
}

static void open_copy(fuse_req_t req, struct fuse_file_info *info)
{
	if ((info->flags & O_ACCMODE) != O_RDONLY) {
		fuse_reply_err(req, EROFS);
		return;
	}
	info->fh = 0;
	info->keep_cache = 1; /* never changes */
	fuse_reply_open(req, info);
}

void fs_open(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info)
{
	struct node *node = node_of(number);
	struct open_call *call;

	if (node->kind == NODE_CONTROL_DB_COPY) {
		open_copy(req, info);
		return;
	}
	call = open_call_new(req, node, info);
	if (!call)
		fuse_reply_err(req, ENOMEM);
	else
		waiting_run(&call->waiting);
}

/* The descriptor of a new file, or -errno. */
static int make_file(fuse_req_t req, struct node *parent, const char *name, mode_t mode)
{
	int ret = caller_become(req);

	if (ret == 0)
		ret = store.io->open(store.io, parent->fd, name, O_WRONLY | O_CREAT | O_EXCL, mode);
	caller_leave();
	return ret;
}

/* What CREATE is answered with the kernel takes for a new file, which its maker may open whatever its mode is. So it is
 * none that somebody else has put there, below the mount, since the kernel looked: -ESTALE has it look again, and check
 * whether the caller may open what it finds. It does so only once, so what vanishes again is waited for a little. */
static int make_entry(fuse_req_t req, struct node *parent, const char *name, mode_t mode, bool exclusive,
                      struct fuse_entry_param *entry)
{
	cleanup_fd int fd = make_file(req, parent, name, mode);
	const struct node *node;
	struct stat made;
	int ret;

	for (int i = 0; fd == -EEXIST && !exclusive && i < MAKE_AGAIN; i++) {
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		fd = make_file(req, parent, name, mode);
	}
	if (fd < 0)
		return fd == -EEXIST && !exclusive ? -ESTALE : fd;
	if (fstat(fd, &made) < 0)
		return -errno;
	ret = entry_lookup(parent, name, entry);
	if (ret < 0)
		return ret == -ENOENT ? -ESTALE : ret;
	node = node_of(entry->ino);
	if (node->ino == made.st_ino && node->dev == made.st_dev)
		return 0;
	node_forget(node_of(entry->ino), 1);
	return -ESTALE;
}

void fs_create(fuse_req_t req, fuse_ino_t parent_number, const char *name, mode_t mode, struct fuse_file_info *info)
{
	struct node *parent = node_of(parent_number);
	struct fuse_entry_param entry;
	/* The image is opened by name for writing right after, which only a privileged daemon always may. */
	mode_t first_mode = store.privileged ? mode : mode | S_IRUSR | S_IWUSR;
	struct open_call *call = NULL;
	int ret = name_check_made(parent, name);

	if (ret == 0)
		ret = make_entry(req, parent, name, first_mode, info->flags & O_EXCL, &entry);
	if (ret == 0) {
		call = open_call_new(req, node_of(entry.ino), info);
		if (!call) {
			node_forget(node_of(entry.ino), 1);
			ret = -ENOMEM;
		}
	}
	if (ret < 0) {
		fuse_reply_err(req, -ret);
		return;
	}
	call->create = true;
	call->set_mode = first_mode != mode;
	call->final_mode = mode & 07777;
	call->entry = entry;
	waiting_run(&call->waiting);
}

void fs_release(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info)
{
	if (!is_copy(info))
		open_image_put(open_image_of(info));
	fuse_reply_err(req, 0);
}

/* ---- flushing ---- */

void fs_fsync(fuse_req_t req, fuse_ino_t number, int data_only, struct fuse_file_info *info)
{
	int ret = is_copy(info) ? 0 : open_image_sync(open_image_of(info), data_only);

	fuse_reply_err(req, -ret);
}

/* close(): nothing is kept back here, but a failure that is known already is worth telling. */
void fs_flush(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info)
{
	int ret = is_copy(info) ? 0 : atomic_load(&open_image_of(info)->sync_error);

	fuse_reply_err(req, -ret);
}

/* ---- allocation ---- */

/* Before a change of the bytes with which the kernel sends no word about set-user-ID: it leaves that to us. */
static void drop_privileges_for(fuse_req_t req, const struct open_image *image)
{
	if (fuse_req_ctx(req)->uid != 0)
		open_image_drop_privileges(image);
}

struct fallocate_call {
	struct waiting waiting;
	struct open_image *image; /* the kernel keeps the handle open until the answer */
	int mode;
	off_t off, length;
};

static int fallocate_attempt(struct waiting *waiting)
{
	struct fallocate_call *call = (struct fallocate_call *)waiting;
	int ret;

	drop_privileges_for(waiting->req, call->image);
	ret = resize_fallocate(call->image, call->mode, (uint64_t)call->off, (uint64_t)call->length);
	if (ret == 0)
		fuse_reply_err(waiting->req, 0);
	return held_if_busy(ret);
}

static void fallocate_release(struct waiting *waiting)
{
	free(waiting);
}

void fs_fallocate(fuse_req_t req, fuse_ino_t number, int mode, off_t off, off_t length, struct fuse_file_info *info)
{
	struct fallocate_call *call = calloc(1, sizeof(*call));

	if (!call) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	call->waiting = (struct waiting){.req = req, .attempt = fallocate_attempt, .release = fallocate_release};
	call->image = open_image_of(info);
	call->mode = mode;
	call->off = off;
	call->length = length;
	waiting_run(&call->waiting);
}

void fs_lseek(fuse_req_t req, fuse_ino_t number, off_t off, int whence, struct fuse_file_info *info)
{
	off_t found;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		found = -EINVAL;
	else if (is_copy(info))
		found = (found = lseek(node_of(number)->fd, off, whence)) < 0 ? -errno : found;
	else
		found = resize_seek(open_image_of(info), (uint64_t)off, whence);
	if (found < 0)
		fuse_reply_err(req, (int)-found);
	else
		fuse_reply_lseek(req, found);
}

/* The host copies between plain images, perhaps by sharing blocks; for anything else the kernel falls back to copying
 * itself. */
void fs_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_off, struct fuse_file_info *from_info,
                        fuse_ino_t to, off_t to_off, struct fuse_file_info *to_info, size_t length, int flags)
{
	ssize_t n;

	if (is_copy(from_info) || open_image_of(from_info)->bundle || open_image_of(to_info)->bundle) {
		fuse_reply_err(req, EOPNOTSUPP);
		return;
	}
	drop_privileges_for(req, open_image_of(to_info));
	write_gate_begin_cached(&open_image_of(to_info)->gate);
	n = copy_file_range(open_image_of(from_info)->image->data_fd, &from_off,
	                    atomic_load(&open_image_of(to_info)->write_fd), &to_off, length, (unsigned int)flags);
	write_gate_end_cached(&open_image_of(to_info)->gate);
	if (n < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_write(req, (size_t)n);
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * dispatch: which thread handles a request.
 *
 * Requests come by /dev/fuse, to a pool of threads that may wait, or by a ring, to its one thread, which must not. So
 * of the latter only reads, writes and close() are tried there (file.c, file_data.c), and everything else is left to a
 * worker.
 */
#include <errno.h>
#include <stdlib.h>

#include "fs/negotiate.h"
#include "fs/operations.h"
#include "fs/ring_queue.h"
#include "fs/store.h"

/* The arguments of any handler. Names and values stay where they are, in the ring's buffer, until the answer. */
struct call {
	struct deferred deferred;
	void (*handler)(const struct call *call);
	fuse_req_t req;
	fuse_ino_t number, other_number;
	const char *name, *other_name;
	struct stat *attributes;
	struct fuse_file_info *info, *other_info;
	off_t off, other_off;
	size_t size, other_size;
	mode_t mode;
	dev_t rdev;
	int value;
	unsigned int flags, command;
	bool asked_once; /* nobody looks at the answer, and nobody asks again */
	bool changes;    /* what is in the store */
	/* what the pointers above point to */
	struct stat attributes_copy;
	struct fuse_file_info info_copy, other_info_copy;
};

static void run_call(struct deferred *deferred)
{
	struct call *call = (struct call *)deferred;

	call->handler(call);
	free(call);
}

static int leave_to_worker(const struct call *args)
{
	struct call *call = malloc(sizeof(*call));

	if (!call)
		return -ENOMEM;
	*call = *args;
	call->deferred.run = run_call;
	if (args->attributes) {
		call->attributes_copy = *args->attributes;
		call->attributes = &call->attributes_copy;
	}
	if (args->info) {
		call->info_copy = *args->info;
		call->info = &call->info_copy;
	}
	if (args->other_info) {
		call->other_info_copy = *args->other_info;
		call->other_info = &call->other_info_copy;
	}
	if (ring_queue_defer(&call->deferred))
		return 0;
	free(call);
	return -ENOTCONN; /* the daemon is ending */
}

static void dispatch(const struct call *args)
{
	int ret;

	/* The kernel's own mount may be writable all the same: it is remounted without our knowing. */
	if (args->changes && store.read_only) {
		fuse_reply_err(args->req, EROFS);
		return;
	}
	if (!request_by_ring(args->req)) {
		args->handler(args);
		return;
	}
	ret = leave_to_worker(args);
	if (ret == -ENOMEM && args->asked_once)
		args->handler(args);
	else if (ret < 0)
		fuse_reply_err(args->req, -ret);
}

/* Refused by a mount that is to change nothing. What takes a file that is open for writing needs no such word: none is
 * there (fs/open_image.c). */
#define CHANGES .changes = true

/* Answered without a disk, most probably: what it takes is in the host's cache. */
#define QUICK .deferred.job.quick = true

/* HANDLER(name, (parameters), (arguments as they are in a call), .field = parameter, ...) */
#define HANDLER(operation, parameters, arguments, ...)                                                                 \
	static void call_##operation(const struct call *c)                                                             \
	{                                                                                                              \
		fs_##operation arguments;                                                                              \
	}                                                                                                              \
	static void dispatch_##operation parameters                                                                    \
	{                                                                                                              \
		dispatch(&(struct call){.handler = call_##operation, .req = req, .number = number, __VA_ARGS__});      \
	}

HANDLER(lookup, (fuse_req_t req, fuse_ino_t number, const char *name), (c->req, c->number, c->name), .name = name,
        QUICK)
HANDLER(getattr, (fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info), (c->req, c->number, c->info),
        .info = info, QUICK)
HANDLER(setattr, (fuse_req_t req, fuse_ino_t number, struct stat *attributes, int to_set, struct fuse_file_info *info),
        (c->req, c->number, c->attributes, c->value, c->info), .attributes = attributes, .value = to_set, .info = info,
        CHANGES)
HANDLER(readlink, (fuse_req_t req, fuse_ino_t number), (c->req, c->number), QUICK)
HANDLER(mknod, (fuse_req_t req, fuse_ino_t number, const char *name, mode_t mode, dev_t rdev),
        (c->req, c->number, c->name, c->mode, c->rdev), .name = name, .mode = mode, .rdev = rdev, CHANGES)
HANDLER(mkdir, (fuse_req_t req, fuse_ino_t number, const char *name, mode_t mode),
        (c->req, c->number, c->name, c->mode), .name = name, .mode = mode, CHANGES)
HANDLER(unlink, (fuse_req_t req, fuse_ino_t number, const char *name), (c->req, c->number, c->name), .name = name,
        CHANGES)
HANDLER(rmdir, (fuse_req_t req, fuse_ino_t number, const char *name), (c->req, c->number, c->name), .name = name,
        CHANGES)
HANDLER(symlink, (fuse_req_t req, const char *target, fuse_ino_t number, const char *name),
        (c->req, c->other_name, c->number, c->name), .other_name = target, .name = name, CHANGES)
HANDLER(rename,
        (fuse_req_t req, fuse_ino_t number, const char *name, fuse_ino_t new_parent, const char *new_name,
         unsigned int flags),
        (c->req, c->number, c->name, c->other_number, c->other_name, c->flags), .name = name,
        .other_number = new_parent, .other_name = new_name, .flags = flags, CHANGES)
HANDLER(link, (fuse_req_t req, fuse_ino_t number, fuse_ino_t parent, const char *name),
        (c->req, c->number, c->other_number, c->name), .other_number = parent, .name = name, CHANGES)
HANDLER(open, (fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info), (c->req, c->number, c->info),
        .info = info)
HANDLER(create, (fuse_req_t req, fuse_ino_t number, const char *name, mode_t mode, struct fuse_file_info *info),
        (c->req, c->number, c->name, c->mode, c->info), .name = name, .mode = mode, .info = info, CHANGES)
HANDLER(release, (fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info), (c->req, c->number, c->info),
        .info = info, .asked_once = true, QUICK)
HANDLER(fsync, (fuse_req_t req, fuse_ino_t number, int data_only, struct fuse_file_info *info),
        (c->req, c->number, c->value, c->info), .value = data_only, .info = info)
HANDLER(fallocate, (fuse_req_t req, fuse_ino_t number, int mode, off_t off, off_t length, struct fuse_file_info *info),
        (c->req, c->number, c->value, c->off, c->other_off, c->info), .value = mode, .off = off, .other_off = length,
        .info = info)
HANDLER(lseek, (fuse_req_t req, fuse_ino_t number, off_t off, int whence, struct fuse_file_info *info),
        (c->req, c->number, c->off, c->value, c->info), .off = off, .value = whence, .info = info)
HANDLER(copy_file_range,
        (fuse_req_t req, fuse_ino_t number, off_t off, struct fuse_file_info *info, fuse_ino_t to, off_t to_off,
         struct fuse_file_info *to_info, size_t length, int flags),
        (c->req, c->number, c->off, c->info, c->other_number, c->other_off, c->other_info, c->size, c->value),
        .off = off, .info = info, .other_number = to, .other_off = to_off, .other_info = to_info, .size = length,
        .value = flags)
HANDLER(opendir, (fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info), (c->req, c->number, c->info),
        .info = info, QUICK)
HANDLER(readdir, (fuse_req_t req, fuse_ino_t number, size_t size, off_t off, struct fuse_file_info *info),
        (c->req, c->number, c->size, c->off, c->info), .size = size, .off = off, .info = info, QUICK)
HANDLER(readdirplus, (fuse_req_t req, fuse_ino_t number, size_t size, off_t off, struct fuse_file_info *info),
        (c->req, c->number, c->size, c->off, c->info), .size = size, .off = off, .info = info, QUICK)
HANDLER(releasedir, (fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info), (c->req, c->number, c->info),
        .info = info, .asked_once = true, QUICK)
HANDLER(fsyncdir, (fuse_req_t req, fuse_ino_t number, int data_only, struct fuse_file_info *info),
        (c->req, c->number, c->value, c->info), .value = data_only, .info = info)
HANDLER(statfs, (fuse_req_t req, fuse_ino_t number), (c->req, c->number), QUICK)
HANDLER(setxattr, (fuse_req_t req, fuse_ino_t number, const char *name, const char *value, size_t size, int flags),
        (c->req, c->number, c->name, c->other_name, c->size, c->value), .name = name, .other_name = value, .size = size,
        .value = flags, CHANGES)
HANDLER(getxattr, (fuse_req_t req, fuse_ino_t number, const char *name, size_t size),
        (c->req, c->number, c->name, c->size), .name = name, .size = size)
HANDLER(listxattr, (fuse_req_t req, fuse_ino_t number, size_t size), (c->req, c->number, c->size), .size = size)
HANDLER(removexattr, (fuse_req_t req, fuse_ino_t number, const char *name), (c->req, c->number, c->name), .name = name,
        CHANGES)
HANDLER(access, (fuse_req_t req, fuse_ino_t number, int mask), (c->req, c->number, c->value), .value = mask, QUICK)
HANDLER(ioctl,
        (fuse_req_t req, fuse_ino_t number, unsigned int command, void *argument, struct fuse_file_info *info,
         unsigned int flags, const void *in, size_t in_size, size_t out_size),
        (c->req, c->number, c->command, NULL, c->info, c->flags, c->name, c->size, c->other_size), .command = command,
        .info = info, .flags = flags, .name = in, .size = in_size, .other_size = out_size, QUICK)

/* Forgetting never comes by a ring. Reads and writes, and close(), which waits for nothing, see to themselves. */
const struct fuse_lowlevel_ops operations = {
        .init = negotiate,
        .lookup = dispatch_lookup,
        .forget = fs_forget,
        .forget_multi = fs_forget_multi,
        .getattr = dispatch_getattr,
        .setattr = dispatch_setattr,
        .readlink = dispatch_readlink,
        .mknod = dispatch_mknod,
        .mkdir = dispatch_mkdir,
        .unlink = dispatch_unlink,
        .rmdir = dispatch_rmdir,
        .symlink = dispatch_symlink,
        .rename = dispatch_rename,
        .link = dispatch_link,
        .open = dispatch_open,
        .read = fs_read,
        .write = fs_write,
        .flush = fs_flush,
        .release = dispatch_release,
        .fsync = dispatch_fsync,
        .opendir = dispatch_opendir,
        .readdir = dispatch_readdir,
        .readdirplus = dispatch_readdirplus,
        .releasedir = dispatch_releasedir,
        .fsyncdir = dispatch_fsyncdir,
        .statfs = dispatch_statfs,
        .setxattr = dispatch_setxattr,
        .getxattr = dispatch_getxattr,
        .listxattr = dispatch_listxattr,
        .removexattr = dispatch_removexattr,
        .access = dispatch_access,
        .create = dispatch_create,
        .fallocate = dispatch_fallocate,
        .copy_file_range = dispatch_copy_file_range,
        .lseek = dispatch_lseek,
        .ioctl = dispatch_ioctl,
};

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * attributes: owner, mode, times, size and extended attributes; those of a bundle are its data file's, except for the
 * size.
 *
 * POSIX ACLs are the host's, and obeyed by the kernel, which asks for them. Where it does not (a mount of an ordinary
 * user, whose access the host itself checks) they are not offered: they would be stored, shown, and not obeyed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <syslog.h>
#include <unistd.h>

#include "fs/caller.h"
#include "fs/control.h"
#include "fs/damage.h"
#include "fs/log.h"
#include "fs/node.h"
#include "fs/open_image.h"
#include "fs/operations.h"
#include "fs/resize.h"
#include "fs/resolve.h"
#include "fs/store.h"
#include "fs/waiting.h"
#include "mapdb/cleanup.h"
#include "mapdb/shown_inode.h"

#define ACL_PREFIX     "system.posix_acl_"
#define TRUSTED_PREFIX "trusted."

static bool is_acl(const char *name)
{
	return strncmp(name, ACL_PREFIX, strlen(ACL_PREFIX)) == 0;
}

static bool own_xattr(const char *name)
{
	return strncmp(name, DAMAGE_XATTR_PREFIX, strlen(DAMAGE_XATTR_PREFIX)) == 0;
}

/* An O_PATH descriptor's file, by a name that every system call takes. */
struct fd_path {
	char text[32];
};

static struct fd_path fd_path(const struct node *node)
{
	struct fd_path path;

	snprintf(path.text, sizeof(path.text), "/proc/self/fd/%d", node->fd);
	return path;
}

static bool in_store(const struct node *node)
{
	return node->kind == NODE_DIRECTORY || node->kind == NODE_FILE || node->kind == NODE_OTHER;
}

static int attributes_of(struct node *node, struct stat *status)
{
	int ret;

	if (!in_store(node)) {
		control_attributes(node, status);
		return 0;
	}
	ret = resolve_node_status(node, status);
	if (ret == 0)
		status->st_ino = shown_inode(status, store.dev);
	return ret;
}

/* Both of these answer, or leave the request to be asked again when a tool is done. */
struct attribute_call {
	struct waiting waiting;
	struct node *node;
	struct stat wanted;
	int to_set;
	struct open_image *image; /* of the handle that the request came by */
};

static int reply_attributes(fuse_req_t req, struct node *node)
{
	struct stat status;
	int ret = attributes_of(node, &status);

	if (ret == 0)
		fuse_reply_attr(req, &status, attribute_seconds(node));
	return ret;
}

static int chown_fd(int fd, uid_t uid, gid_t gid)
{
	return fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* The bundle's own directory and database, if the name still is the bundle with this node's data. -ENOTDIR: it is none.
 */
static int open_bundle(const struct node *node, int parent_fd, const char *name, int *bundle_fd, int *db_fd)
{
	const struct io *io = store.io;
	struct stat status;

	*bundle_fd = io->open(io, parent_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
	if (*bundle_fd < 0)
		return *bundle_fd;
	if (fstatat(*bundle_fd, BUNDLE_DATA_NAME, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (status.st_ino != node->ino || status.st_dev != node->dev)
		return -ESTALE;
	*db_fd = io->open(io, *bundle_fd, MAP_DB_NAME, O_PATH | O_NOFOLLOW, 0);
	if (*db_fd < 0)
		return *db_fd;
	if (fstat(*db_fd, &status) < 0)
		return -errno;
	/* What is not served as a bundle is not ours to give away. */
	return S_ISREG(status.st_mode) && status.st_nlink == 1 ? 0 : -EUCLEAN;
}

/* Only what was the old owner's. In somebody else's directory that he may write to he could make a bundle of his data
 * and of any file that is there, and would be given both. */
static int give_part_away(int fd, uid_t owner, uid_t uid, gid_t gid)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return -errno;
	if (status.st_uid != owner)
		return status.st_uid == uid ? 0 : -EPERM;
	return chown_fd(fd, uid, gid);
}

/* The rest of a bundle goes to the new owner of its data: who keeps it could go on exchanging the map. The directory
 * last, as when it is made. */
static int give_bundle_away(const struct node *node, uid_t owner, int parent_fd, const char *name, uid_t uid, gid_t gid)
{
	cleanup_fd int bundle_fd = -1, db_fd = -1;
	int ret = open_bundle(node, parent_fd, name, &bundle_fd, &db_fd), bundle_ret;

	if (ret < 0)
		return ret;
	ret = give_part_away(db_fd, owner, uid, gid);
	bundle_ret = give_part_away(bundle_fd, owner, uid, gid);
	return ret < 0 ? ret : bundle_ret;
}

/* What gives a file other rights or another group takes away its set-group-ID, unless the caller is in the group that
 * it had. The kernel leaves that to whoever stores the file; and the host thinks that the daemon may keep it. */
static int drop_set_group_id(fuse_req_t req, const struct node *node, gid_t group)
{
	struct stat status;

	if (fstat(node->fd, &status) < 0)
		return -errno;
	if (!(status.st_mode & S_ISGID) || caller_in_group(req, group))
		return 0;
	return fchmodat(AT_FDCWD, fd_path(node).text, status.st_mode & 07777 & ~(mode_t)S_ISGID, 0) < 0 ? -errno : 0;
}

static int change_owner(fuse_req_t req, struct node *node, const struct stat *wanted, int to_set)
{
	uid_t uid = to_set & FUSE_SET_ATTR_UID ? wanted->st_uid : (uid_t)-1;
	gid_t gid = to_set & FUSE_SET_ATTR_GID ? wanted->st_gid : (gid_t)-1;
	char name[NAME_MAX + 1];
	struct node *parent;
	struct stat before;
	int ret;

	if (fstat(node->fd, &before) < 0)
		return -errno;
	ret = chown_fd(node->fd, uid, gid);
	if (ret == 0 && node->kind != NODE_DIRECTORY) /* there it means something else, and stays */
		ret = drop_set_group_id(req, node, before.st_gid);
	if (ret < 0 || node->kind != NODE_FILE || node_place(node, &parent, name) < 0)
		return ret;
	ret = give_bundle_away(node, before.st_uid, parent->fd, name, uid, gid);
	/* It is the data's owner that counts, and that has been changed. */
	if (ret < 0 && ret != -ENOTDIR)
		log_message(LOG_WARNING, "%s: its map.db or directory stays with its owner: %s", name, strerror(-ret));
	node_unref(parent);
	return 0;
}

static int change_times(struct node *node, const struct stat *wanted, int to_set)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};

	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		times[0].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_ATIME)
		times[0] = wanted->st_atim;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		times[1].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_MTIME)
		times[1] = wanted->st_mtim;
	return utimensat(node->fd, "", times, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static int change_size(const struct attribute_call *call)
{
	struct open_image *image = call->image;
	int ret = 0;

	if (call->node->kind != NODE_FILE)
		return -EINVAL;
	if (!image)
		ret = open_image_get(call->node, true, &image);
	if (ret < 0)
		return ret;
	ret = resize_image(image, (uint64_t)call->wanted.st_size);
#ifdef FUSE_SET_ATTR_KILL_SUID
	if (ret == 0 && (call->to_set & FUSE_SET_ATTR_KILL_SUID))
		open_image_drop_privileges(image);
#endif
	if (!call->image)
		open_image_put(image);
	return ret;
}

/* Set-user-ID bits and file capabilities, which a write must take off, are not for a file that the kernel writes. */
static int check_mode(struct node *node, mode_t mode)
{
	struct open_image *image = open_image_peek(node);
	bool forbidden = image && passthrough_forbids_mode(&image->passthrough, mode);

	if (image)
		open_image_put(image);
	return forbidden ? -ETXTBSY : 0;
}

static int check_new_xattr(struct node *node, const char *name)
{
	struct open_image *image = open_image_peek(node);
	bool forbidden = image && passthrough_forbids_attribute(&image->passthrough, name);

	if (image)
		open_image_put(image);
	return forbidden ? -ETXTBSY : 0;
}

static int change_attributes(const struct attribute_call *call)
{
	const int owner = FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
	const int times = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW;
	int ret = 0;

	/* The size first: it is the only one that may have to be tried again. */
	if (call->to_set & FUSE_SET_ATTR_SIZE)
		ret = held_if_busy(change_size(call));
	if (ret == 0 && (call->to_set & FUSE_SET_ATTR_MODE))
		ret = check_mode(call->node, call->wanted.st_mode);
	if (ret == 0 && (call->to_set & owner))
		ret = change_owner(call->waiting.req, call->node, &call->wanted, call->to_set);
	if (ret == 0 && (call->to_set & FUSE_SET_ATTR_MODE) &&
	    fchmodat(AT_FDCWD, fd_path(call->node).text, call->wanted.st_mode & 07777, 0) < 0)
		ret = -errno;
	if (ret == 0 && (call->to_set & times))
		ret = change_times(call->node, &call->wanted, call->to_set);
	return ret;
}

static int attribute_attempt(struct waiting *waiting)
{
	struct attribute_call *call = (struct attribute_call *)waiting;
	int ret = change_attributes(call);

	if (ret == 0)
		call->to_set = 0; /* done; only the answer may have to wait */
	return ret < 0 ? ret : held_if_busy(reply_attributes(waiting->req, call->node));
}

static void attribute_release(struct waiting *waiting)
{
	struct attribute_call *call = (struct attribute_call *)waiting;

	node_unref(call->node);
	free(call);
}

static void attribute_run(fuse_req_t req, struct node *node, const struct stat *wanted, int to_set,
                          struct fuse_file_info *info)
{
	struct attribute_call *call = calloc(1, sizeof(*call));

	if (!call) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	call->waiting = (struct waiting){.req = req, .attempt = attribute_attempt, .release = attribute_release};
	call->node = node_ref(node);
	call->to_set = to_set;
	if (wanted)
		call->wanted = *wanted;
	/* The kernel keeps the handle open until the answer. */
	if (info && node->kind == NODE_FILE)
		call->image = (struct open_image *)(uintptr_t)info->fh;
	waiting_run(&call->waiting);
}

void fs_getattr(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info)
{
	int ret = reply_attributes(req, node_of(number));

	if (ret == -EBUSY)
		attribute_run(req, node_of(number), NULL, 0, NULL);
	else if (ret < 0)
		fuse_reply_err(req, -ret);
}

void fs_setattr(fuse_req_t req, fuse_ino_t number, struct stat *attributes, int to_set, struct fuse_file_info *info)
{
	struct node *node = node_of(number);

	if (!in_store(node))
		fuse_reply_err(req, EPERM);
	else
		attribute_run(req, node, attributes, to_set, info);
}

/* Asked only by mounts without default_permissions, whose user is the daemon's. */
void fs_access(fuse_req_t req, fuse_ino_t number, int mask)
{
	struct node *node = node_of(number);
	int error = 0;

	if (!in_store(node))
		error = mask & W_OK ? EACCES : 0;
	else if (faccessat(AT_FDCWD, fd_path(node).text, mask, AT_EACCESS) < 0)
		error = errno;
	fuse_reply_err(req, error);
}

void fs_statfs(fuse_req_t req, fuse_ino_t number)
{
	struct node *node = node_of(number);
	struct statvfs status;

	if (fstatvfs(in_store(node) ? node->fd : store.dir_fd, &status) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_statfs(req, &status);
}

/* 0 if the attribute may be passed to the store. Symbolic links have none that a user could reach. */
static int check_xattr(const struct node *node, const char *name)
{
	struct stat status;

	if (!in_store(node) || (is_acl(name) && !store.acls))
		return -EOPNOTSUPP;
	if (node->kind == NODE_OTHER && fstat(node->fd, &status) == 0 && S_ISLNK(status.st_mode))
		return -EOPNOTSUPP;
	return 0;
}

static int change_xattr(fuse_req_t req, const struct node *node, const char *name, const char *value, size_t size,
                        int flags)
{
	struct stat before;

	if (fstat(node->fd, &before) < 0 || setxattr(fd_path(node).text, name, value, size, flags) < 0)
		return -errno;
	return strcmp(name, ACL_PREFIX "access") == 0 ? drop_set_group_id(req, node, before.st_gid) : 0;
}

void fs_setxattr(fuse_req_t req, fuse_ino_t number, const char *name, const char *value, size_t size, int flags)
{
	struct node *node = node_of(number);
	int ret = own_xattr(name) ? -EPERM : check_xattr(node, name);

	if (ret == 0)
		ret = check_new_xattr(node, name);
	if (ret == 0)
		ret = change_xattr(req, node, name, value, size, flags);
	fuse_reply_err(req, -ret);
}

void fs_removexattr(fuse_req_t req, fuse_ino_t number, const char *name)
{
	struct node *node = node_of(number);
	int ret = own_xattr(name) ? -EPERM : check_xattr(node, name);

	if (ret == 0 && removexattr(fd_path(node).text, name) < 0)
		ret = -errno;
	fuse_reply_err(req, -ret);
}

/* Answers with a value of length bytes, or with its length if that was the question. */
static void reply_xattr(fuse_req_t req, ssize_t length, size_t size, const char *value)
{
	if (length < 0)
		fuse_reply_err(req, (int)-length);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)length);
	else if ((size_t)length > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, value, (size_t)length);
}

void fs_getxattr(fuse_req_t req, fuse_ino_t number, const char *name, size_t size)
{
	struct node *node = node_of(number);
	cleanup_free char *value = size ? malloc(size) : NULL;
	ssize_t length = check_xattr(node, name);

	if (size && !value)
		length = -ENOMEM;
	if (length == 0 && own_xattr(name)) {
		length = strcmp(name, DAMAGE_XATTR) == 0 ? damage_xattr(node, value, size) : -ENODATA;
	} else if (length == 0) {
		length = getxattr(fd_path(node).text, name, value, size);
		if (length < 0)
			length = -errno;
	}
	/* Any other error would be the kernel's answer to who wants access. */
	if (length == -EOPNOTSUPP && is_acl(name) && store.acls)
		length = -ENODATA;
	reply_xattr(req, length, size, value);
}

/* Those of the administrator, whose names the host, too, shows only to him. That nobody else gets their values the
 * kernel sees to. */
static bool is_trusted(const char *name)
{
	return strncmp(name, TRUSTED_PREFIX, strlen(TRUSTED_PREFIX)) == 0;
}

static bool is_offered(fuse_req_t req, const char *name)
{
	return (store.acls || !is_acl(name)) && !own_xattr(name) && (fuse_req_ctx(req)->uid == 0 || !is_trusted(name));
}

/* Takes the names that are not offered out of a list. Returns its new length. */
static ssize_t filter_names(fuse_req_t req, char *names, ssize_t length)
{
	char *to = names;

	for (char *name = names; name < names + length;) {
		size_t step = strlen(name) + 1;

		if (is_offered(req, name)) {
			memmove(to, name, step);
			to += step;
		}
		name += step;
	}
	return to - names;
}

/* Adds the name of the attribute that tells what is wrong, if something is known to be. */
static ssize_t add_damage(struct node *node, char *names, ssize_t length)
{
	char error[1];

	if (!node_error_get(node, error, sizeof(error)) || (size_t)length + sizeof(DAMAGE_XATTR) > XATTR_LIST_MAX)
		return length;
	memcpy(names + length, DAMAGE_XATTR, sizeof(DAMAGE_XATTR));
	return length + (ssize_t)sizeof(DAMAGE_XATTR);
}

void fs_listxattr(fuse_req_t req, fuse_ino_t number, size_t size)
{
	cleanup_free char *names = malloc(XATTR_LIST_MAX);
	struct node *node = node_of(number);
	ssize_t length = 0;

	if (!names)
		length = -ENOMEM;
	else if (check_xattr(node, "") == 0)
		length = listxattr(fd_path(node).text, names, XATTR_LIST_MAX);
	if (length < 0 && names)
		length = -errno;
	if (length >= 0)
		length = add_damage(node, names, filter_names(req, names, length));
	reply_xattr(req, length, size, names);
}

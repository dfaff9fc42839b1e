/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/locate.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "mapdb/cleanup.h"
#include "mapdb/image.h"
#include "mapdb/lock_table.h"
#include "mapdb/map_db.h"
#include "mapdb/shown_inode.h"

#define STORE_LINK        ".zcfs/store"
#define CONTROL_DIRECTORY ".zcfs"

/* One line of /proc/self/mountinfo. */
struct mount {
	unsigned int id;
	unsigned int major;
	unsigned int minor;
	char *root;  /* the directory of the file system that is mounted; "/" but for bind mounts */
	char *point; /* where */
	char *type;
	bool closed; /* of a FUSE file system: only to the user who has mounted it */
	uid_t user;  /* who that is */
};

static void mount_release(struct mount *mount)
{
	free(mount->root);
	free(mount->point);
	free(mount->type);
	*mount = (struct mount){0};
}

static void cleanup_file(FILE **file)
{
	if (*file)
		fclose(*file);
}

/* The kernel writes blank, tab, newline and backslash as \ooo. */
static void unescape_octal(char *text)
{
	char *to = text;
	for (const char *from = text; *from; to++) {
		unsigned int value;
		if (from[0] == '\\' && sscanf(from + 1, "%3o", &value) == 1) {
			*to = (char)value;
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

static bool parse_mount(char *line, struct mount *mount)
{
	*mount = (struct mount){0};
	cleanup_free char *options = NULL;
	const char *dash = strstr(line, " - ");
	if (!dash ||
	    sscanf(line, "%u %*u %u:%u %ms %ms", &mount->id, &mount->major, &mount->minor, &mount->root,
	           &mount->point) != 5 ||
	    sscanf(dash + 3, "%ms %*s %ms", &mount->type, &options) < 1) {
		mount_release(mount);
		return false;
	}
	const char *user = options ? strstr(options, "user_id=") : NULL;
	mount->closed = user && sscanf(user, "user_id=%u", &mount->user) == 1 && !strstr(options, "allow_other");
	unescape_octal(mount->root);
	unescape_octal(mount->point);
	return true;
}

typedef bool mount_predicate(const struct mount *mount, const struct mount *wanted);

static bool same_id(const struct mount *mount, const struct mount *wanted)
{
	return mount->id == wanted->id;
}

/* Of a bind mount of a subdirectory: the mount of the whole, where the control directory is. */
static bool whole_of_same_device(const struct mount *mount, const struct mount *wanted)
{
	return mount->major == wanted->major && mount->minor == wanted->minor && strcmp(mount->root, "/") == 0;
}

static int find_mount(mount_predicate *predicate, const struct mount *wanted, struct mount *found)
{
	__attribute__((cleanup(cleanup_file))) FILE *table = fopen("/proc/self/mountinfo", "re");
	if (!table)
		return -errno;
	cleanup_free char *line = NULL;
	size_t capacity = 0;
	while (getline(&line, &capacity, table) > 0) {
		if (!parse_mount(line, found))
			continue;
		if (predicate(found, wanted))
			return 0;
		mount_release(found);
	}
	return -ENOENT;
}

static int mount_id_of(int fd, unsigned int *id)
{
	struct statx status;
	if (statx(fd, "", AT_EMPTY_PATH, 0, &status) < 0) /* told in any case; more, a mount may refuse to tell */
		return -errno;
	if (!(status.stx_mask & STATX_MNT_ID))
		return -ENOSYS;
	*id = (unsigned int)status.stx_mnt_id;
	return 0;
}

static char *path_of_fd(int fd)
{
	char link[64];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	char target[PATH_MAX];
	ssize_t length = readlink(link, target, sizeof(target) - 1);
	if (length < 0)
		return NULL;
	target[length] = '\0';
	return strdup(target);
}

/* What remains of path below directory, without a leading slash ("" for directory itself); NULL if it is not below. */
static const char *path_below(const char *path, const char *directory)
{
	size_t length = strlen(directory);
	if (length > 0 && directory[length - 1] == '/')
		length--;
	if (strncmp(path, directory, length) != 0)
		return NULL;
	path += length;
	return *path == '/' ? path + 1 : *path == '\0' ? path : NULL;
}

static int open_beneath(int directory_fd, const char *path)
{
	struct open_how how = {
	        .flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
	        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
	};
	long fd = syscall(SYS_openat2, directory_fd, *path ? path : ".", &how, sizeof(how));
	return fd < 0 ? -errno : (int)fd;
}

/* What is asked of a mount whose daemon is gone ends with ENOTCONN, but while it dies with one of the others. */
static int mount_error(int error)
{
	return error == -ECONNABORTED || error == -ECANCELED ? -ENOTCONN : error;
}

/* FUSE keeps everybody out of another user's mount, root too. The path leads to it as far as it can be followed. */
static void explain_denied(const char *path, struct location *location)
{
	cleanup_free char *start = strdup(path);
	cleanup_fd int fd = -1;
	char *slash = start;
	while (slash && (fd = open(start, O_PATH | O_CLOEXEC)) < 0) {
		slash = strrchr(start, '/');
		if (slash)
			*slash = '\0';
	}
	__attribute__((cleanup(mount_release))) struct mount mount = {0};
	struct mount wanted = {0};
	if (fd >= 0 && mount_id_of(fd, &wanted.id) == 0 && find_mount(same_id, &wanted, &mount) == 0 &&
	    strcmp(mount.type, "fuse.zcfs") == 0 && mount.closed && mount.user != geteuid())
		snprintf(location->remedy, sizeof(location->remedy),
		         "%.100s is the zcfs mount of another user: run as that user, or mount it with -o allow_other",
		         mount.point);
}

static int open_store(const struct mount *whole, struct location *location)
{
	cleanup_free char *link = NULL;
	if (asprintf(&link, "%s/" STORE_LINK, whole->point) < 0)
		return -ENOMEM;
	cleanup_fd int store = open(link, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (store < 0) {
		int error = mount_error(-errno);
		if (error == -EACCES || error == -EPERM)
			snprintf(location->remedy, sizeof(location->remedy),
			         "run as root, or as the user whose zcfs serves %.100s", whole->point);
		else if (error == -ENOTCONN)
			snprintf(location->remedy, sizeof(location->remedy),
			         "zcfs is gone but its mount is left: fusermount3 -u %.100s", whole->point);
		return error;
	}
	struct stat status;
	if (fstat(store, &status) < 0)
		return -errno;
	/* Another mount may cover this one; and what is found must be below the mount, not in it. */
	if (status.st_dev == makedev(whole->major, whole->minor))
		return -EXDEV;
	return steal_fd(&store);
}

/* If the open directory is in a zcfs mount, replaces the descriptor by one of the same directory in the store below. */
static int leave_mount(struct location *location)
{
	struct statfs file_system;
	if (fstatfs(location->parent_fd, &file_system) < 0)
		return -errno;
	if (file_system.f_type != FUSE_SUPER_MAGIC)
		return 0;
	__attribute__((cleanup(mount_release))) struct mount here = {0}, whole = {0};
	struct mount wanted = {0};
	int error = mount_id_of(location->parent_fd, &wanted.id);
	if (!error)
		error = find_mount(same_id, &wanted, &here);
	if (error)
		return error;
	if (strcmp(here.type, "fuse.zcfs") != 0)
		return 0; /* somebody else's FUSE file system: a directory like any other */
	error = find_mount(whole_of_same_device, &here, &whole);
	if (error)
		return error;

	cleanup_free char *path = path_of_fd(location->parent_fd);
	const char *inside = path ? path_below(path, here.point) : NULL;
	if (!inside)
		return -ENOENT;
	cleanup_free char *relative = NULL;
	if (asprintf(&relative, "%s/%s", here.root, inside) < 0)
		return -ENOMEM;
	const char *start = relative + strspn(relative, "/");
	if (path_below(start, CONTROL_DIRECTORY)) {
		snprintf(location->remedy, sizeof(location->remedy), "give the image's own path in the mount");
		return -ENOENT;
	}
	cleanup_fd int store = open_store(&whole, location);
	if (store < 0)
		return store;
	int below = open_beneath(store, start);
	if (below < 0)
		return below;
	close(location->parent_fd);
	location->parent_fd = below;
	location->mounted = true;
	return 0;
}

/* Splits into directory and name. A symbolic link is followed first: what it leads to is the image. */
static int split_path(const char *path, char **directory, char **name)
{
	cleanup_free char *whole = strdup(path);
	if (!whole)
		return -ENOMEM;
	size_t length = strlen(whole);
	while (length > 1 && whole[length - 1] == '/') /* a bundle completed by the shell */
		whole[--length] = '\0';
	const char *slash = strrchr(whole, '/');
	const char *last = slash ? slash + 1 : whole;
	struct stat status;
	if (lstat(whole, &status) < 0) {
		if (errno != EUCLEAN) /* what a mount says of a damaged bundle; it is no link */
			return -errno;
		status.st_mode = S_IFREG;
	}
	if (S_ISLNK(status.st_mode) || strcmp(last, ".") == 0 || strcmp(last, "..") == 0) {
		char *resolved = realpath(whole, NULL);
		if (!resolved)
			return -errno;
		free(whole);
		whole = resolved;
		slash = strrchr(whole, '/');
		last = slash ? slash + 1 : whole;
	}
	if (*last == '\0')
		return -EISDIR;
	*name = strdup(last);
	*directory = !slash ? strdup(".") : slash == whole ? strdup("/") : strndup(whole, (size_t)(slash - whole));
	return *name && *directory ? 0 : -ENOMEM;
}

/* Inside a bundle nothing is an image: data alone holds scrambled bytes. */
static int refuse_inside_bundle(struct location *location)
{
	struct stat status;
	if (fstatat(location->parent_fd, MAP_DB_NAME, &status, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fstatat(location->parent_fd, BUNDLE_DATA_NAME, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	cleanup_free char *path = path_of_fd(location->parent_fd);
	snprintf(location->remedy, sizeof(location->remedy), "give the bundle itself: %.200s",
	         path ? path : "its directory");
	return -ENOTUNIQ;
}

static int open_directory(const char *path, struct location *location)
{
	location->parent_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return location->parent_fd < 0 ? -errno : 0;
}

int locate_image(const char *path, struct location *location)
{
	cleanup_free char *directory = NULL;
	int error = split_path(path, &directory, &location->name);
	if (!error)
		error = open_directory(directory, location);
	if (error == -EACCES)
		explain_denied(path, location);
	if (error)
		return mount_error(error);
	error = leave_mount(location);
	return error ? error : refuse_inside_bundle(location);
}

int locate_directory(const char *path, struct location *location)
{
	int error = open_directory(path, location);
	if (error == -EACCES)
		explain_denied(path, location);
	return error ? mount_error(error) : leave_mount(location);
}

/* What the host's file system says of the image: of a bundle, of its data. */
static int data_status(const struct location *location, struct stat *status)
{
	cleanup_free char *data = NULL;
	if (asprintf(&data, "%s/" BUNDLE_DATA_NAME, location->name) < 0)
		return -ENOMEM;
	if (fstatat(location->parent_fd, data, status, AT_SYMLINK_NOFOLLOW) < 0 &&
	    fstatat(location->parent_fd, location->name, status, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return 0;
}

/* Where what was located is in that mount; NULL: its store does not hold it, or there is no memory. */
static char *path_in_mount(const struct mount *mount, const struct location *location)
{
	struct location ignored = LOCATION_INIT;
	cleanup_free char *directory = path_of_fd(location->parent_fd);
	cleanup_fd int store = open_store(mount, &ignored);
	cleanup_free char *store_path = store < 0 ? NULL : path_of_fd(store);
	const char *below = store_path && directory ? path_below(directory, store_path) : NULL;
	char *path;
	return below && asprintf(&path, "%s/%s/%s", mount->point, below, location->name) >= 0 ? path : NULL;
}

/* The inode number by which that mount shows what was located, if it does; 0: it cannot be asked. */
static ino_t inode_in_mount(const struct mount *mount, const struct location *location)
{
	struct location ignored = LOCATION_INIT;
	cleanup_fd int store = open_store(mount, &ignored);
	struct stat root, data;
	if (store < 0 || fstat(store, &root) < 0 || data_status(location, &data) < 0)
		return 0;
	return shown_inode(&data, root.st_dev);
}

/* What to do with a mount of zcfs; other than 0: no more of them. */
typedef int mount_visitor(const struct mount *mount, const struct location *location, void *context);

static int visit_mounts(const struct location *location, mount_visitor *visit, void *context)
{
	__attribute__((cleanup(cleanup_file))) FILE *table = fopen("/proc/self/mountinfo", "re");
	if (!table)
		return -errno;
	cleanup_free char *line = NULL;
	size_t capacity = 0;
	int result = 0;
	while (result == 0 && getline(&line, &capacity, table) > 0) {
		__attribute__((cleanup(mount_release))) struct mount mount = {0};
		if (parse_mount(line, &mount) && strcmp(mount.type, "fuse.zcfs") == 0 && strcmp(mount.root, "/") == 0)
			result = visit(&mount, location, context);
	}
	return result;
}

static int open_in_mount(const struct mount *mount, const struct location *location, void *fd)
{
	struct stat shown;
	cleanup_free char *path = path_in_mount(mount, location);
	/* What is no image must not be opened: a device may act upon it. */
	if (!path || (lstat(path, &shown) == 0 && !S_ISREG(shown.st_mode)))
		return 0;
	/* O_NONBLOCK: by now it may be a FIFO, which would wait for somebody to write. */
	cleanup_fd int image = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
	if (image < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(image, &shown) < 0 || !S_ISREG(shown.st_mode) || shown.st_ino != inode_in_mount(mount, location))
		return 0;
	*(int *)fd = steal_fd(&image);
	return 1;
}

int locate_through_mount(const struct location *location)
{
	struct stat status;
	if (data_status(location, &status) == 0 && lock_leased(&status))
		return -EBUSY;
	int fd = -ENOENT;
	int result = visit_mounts(location, open_in_mount, &fd);
	return result < 0 ? result : fd;
}

static int holds(const struct mount *mount, const struct location *location, void *unused)
{
	(void)unused;
	cleanup_free char *path = path_in_mount(mount, location);
	return path != NULL;
}

bool locate_is_served(const struct location *location)
{
	return location->mounted || visit_mounts(location, holds, NULL) > 0;
}

static int look_up_again(const struct mount *mount, const struct location *location, void *unused)
{
	(void)unused;
	cleanup_free char *path = path_in_mount(mount, location);
	/* Nobody can link a directory. But the kernel first asks the mount whether the new name exists, whatever it
	 * remembers of it. */
	if (path)
		link("/", path);
	return 0;
}

void locate_again(const struct location *location)
{
	visit_mounts(location, look_up_again, NULL);
}

static int serves(const struct mount *mount, const struct location *location, void *context)
{
	const struct stat *shown = context;
	return makedev(mount->major, mount->minor) == shown->st_dev &&
	       inode_in_mount(mount, location) == shown->st_ino && holds(mount, location, NULL);
}

static bool is_served_by(const void *location, dev_t device, ino_t inode)
{
	struct stat shown = {.st_dev = device, .st_ino = inode};
	return visit_mounts(location, serves, &shown) > 0;
}

int locate_identity(const struct location *location, struct identity *image)
{
	struct stat status;
	int error = data_status(location, &status);
	if (error)
		return error;
	*image = (struct identity){
	        .device = status.st_dev,
	        .inode = status.st_ino,
	        .serves = is_served_by,
	        .context = location,
	};
	return 0;
}

void location_release(struct location *location)
{
	if (location->parent_fd >= 0)
		close(location->parent_fd);
	free(location->name);
	*location = (struct location)LOCATION_INIT;
}

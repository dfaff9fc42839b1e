/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/resolve.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

#include "fs/log.h"
#include "fs/open_image.h"
#include "fs/store.h"
#include "mapdb/cleanup.h"

/* How often, a millisecond apart, to look again at a bundle that is just being made or committed. */
#define SETTLE_ATTEMPTS 50

bool name_hidden(const struct node *parent, const char *name)
{
	return image_name_reserved(name) || (parent == node_root() && strcmp(name, CONTROL_NAME) == 0);
}

static void pause_1ms(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static int open_path(int dir_fd, const char *name, struct stat *status)
{
	int fd = store.io->open(store.io, dir_fd, name, O_PATH | O_NOFOLLOW, 0);

	if (fd >= 0 && fstat(fd, status) < 0) {
		int error = -errno;

		close(fd);
		return error;
	}
	return fd;
}

/* Data of a bundle, checked as far as it can be without opening anything. -EUCLEAN with the reason in *why. */
static int open_bundle_data(int parent_fd, const char *name, int bundle_fd, struct resolved *out, const char **why)
{
	int fd = open_path(bundle_fd, BUNDLE_DATA_NAME, &out->status);
	enum name_kind kind;
	struct stat status;

	if (fd < 0) {
		*why = fd == -ENOENT ? "its data file is missing" : "its data file cannot be opened";
		return fd == -ENOENT || fd == -ELOOP ? -EUCLEAN : fd;
	}
	if (!S_ISREG(out->status.st_mode))
		*why = "its data is not a regular file";
	else if (!S_ISREG(out->db.st_mode))
		*why = "its map.db is not a regular file";
	else if (out->db.st_nlink > 1)
		*why = "its map.db has another hard link";
	else if (image_names_fold(bundle_fd, &out->db))
		*why = "its file system accepts other names for map.db, so anybody could make one";
	/* An adoption that is not finished leaves a second link of its own, and the library knows it. */
	else if (out->status.st_nlink > 1 && image_classify(store.io, parent_fd, name, &kind, &status) == -EUCLEAN)
		*why = "its data file has another hard link";
	else {
		out->kind = NAME_BUNDLE;
		out->fd = fd;
		return 0;
	}
	close(fd);
	return -EUCLEAN;
}

static int resolve_once(int parent_fd, const char *name, struct resolved *out, const char **why)
{
	cleanup_fd int fd = open_path(parent_fd, name, &out->status);
	cleanup_fd int db_fd = -1;

	if (fd < 0)
		return fd;
	out->kind = S_ISREG(out->status.st_mode) ? NAME_FILE : NAME_OTHER;
	if (S_ISDIR(out->status.st_mode)) {
		db_fd = open_path(fd, MAP_DB_NAME, &out->db);
		if (db_fd >= 0)
			return open_bundle_data(parent_fd, name, fd, out, why);
		/* What we may not look into is a directory like any other. */
		if (db_fd != -ENOENT && db_fd != -EACCES)
			return db_fd;
	}
	out->fd = steal_fd(&fd);
	return 0;
}

int resolve_name(int parent_fd, const char *name, struct resolved *out)
{
	const char *why = NULL;
	int ret = -EUCLEAN;

	*out = (struct resolved){.fd = -1};
	/* Somebody may be just exchanging or removing what is looked at. */
	for (int i = 0; i < SETTLE_ATTEMPTS && ret == -EUCLEAN; i++) {
		if (i > 0)
			pause_1ms();
		ret = resolve_once(parent_fd, name, out, &why);
	}
	if (ret == -EUCLEAN)
		log_message(LOG_ERR,
		            "%s: a directory with a map.db that is not a valid bundle: %s; "
		            "it is served as an error until it is repaired or removed",
		            name, why);
	return ret;
}

void resolved_release(struct resolved *resolved)
{
	if (resolved->fd >= 0)
		close(resolved->fd);
	resolved->fd = -1;
}

static int classify_size(int parent_fd, const char *name, const struct stat *data, uint64_t *size)
{
	enum name_kind kind;
	struct stat status;
	int ret = -EBUSY;

	for (int i = 0; i < SETTLE_ATTEMPTS && ret == -EBUSY; i++) {
		if (i > 0)
			pause_1ms();
		ret = image_classify(store.io, parent_fd, name, &kind, &status);
	}
	if (ret < 0)
		return ret;
	if (kind == NAME_OTHER || status.st_ino != data->st_ino || status.st_dev != data->st_dev)
		return -ESTALE;
	*size = (uint64_t)status.st_size;
	return 0;
}

static int image_size_of(struct node *node, int parent_fd, const char *name, const struct resolved *resolved,
                         uint64_t *size)
{
	int ret;

	if (node && (open_image_bundle_size(node, size) || node_bundle_size_get(node, &resolved->db, size)))
		return 0;
	ret = classify_size(parent_fd, name, &resolved->status, size);
	if (ret == 0 && node)
		node_bundle_size_set(node, &resolved->db, *size);
	return ret;
}

int resolve_image_size(int parent_fd, const char *name, struct resolved *resolved)
{
	struct node *node;
	uint64_t size;
	int ret;

	if (resolved->kind != NAME_BUNDLE)
		return 0;
	node = node_find(&resolved->status);
	ret = image_size_of(node, parent_fd, name, resolved, &size);
	node_unref(node);
	if (ret == 0)
		resolved->status.st_size = (off_t)size;
	/* It is there, and shown with the data file's size. Who opens it gets the error. */
	return ret == -EUCLEAN ? 0 : ret;
}

static int status_by_name(struct node *node, struct node *parent, const char *name, struct stat *status)
{
	struct resolved resolved cleanup_resolved = {.fd = -1};
	int ret = resolve_name(parent->fd, name, &resolved);

	if (ret < 0)
		return ret == -ENOENT ? -ESTALE : ret;
	if (resolved.status.st_ino != node->ino || resolved.status.st_dev != node->dev)
		return -ESTALE;
	ret = resolve_image_size(parent->fd, name, &resolved);
	*status = resolved.status;
	return ret;
}

int resolve_node_status(struct node *node, struct stat *status)
{
	char name[NAME_MAX + 1];
	struct node *parent;
	uint64_t size;
	int ret;

	if (fstat(node->fd, status) < 0)
		return -errno;
	if (node->kind != NODE_FILE)
		return 0;
	/* Nothing can turn an image that is open here into a bundle or back, not even the loss of its name. */
	if (open_image_bundle_size(node, &size)) {
		status->st_size = (off_t)size;
		return 0;
	}
	/* One that is not open and has no name is nobody's bundle. */
	if (status->st_nlink == 0 || open_image_is_plain(node))
		return 0;
	ret = node_place(node, &parent, name);
	if (ret < 0)
		return ret;
	ret = status_by_name(node, parent, name, status);
	node_unref(parent);
	return ret;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/overlays.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "mapdb/cleanup.h"
#include "mapdb/io.h"
#include "mapdb/lock_table.h"
#include "mapdb/name_list.h"
#include "tools/monotonic.h"
#include "tools/stop.h"

#define LEASED_SECONDS 2.0
#define WAIT_STEP_MS   50

/* ---- the headers: docs/interop/qcow2.txt and qed_spec.txt of QEMU ---- */

#define BACKING_NAME_MAX 1023 /* QEMU opens none that is longer */

struct qcow2_header { /* big-endian; version 1 (qcow) begins in the same way */
	char magic[4];
	uint32_t version;
	uint64_t backing_off;
	uint32_t backing_bytes;
};
#define QCOW2_MAGIC       "QFI\xfb"
#define QCOW2_VERSION_MAX 3
#define QCOW2_BYTES_MIN   20

struct qed_header { /* little-endian */
	char magic[4];
	uint32_t cluster_bytes;
	uint32_t table_clusters;
	uint32_t header_clusters;
	uint64_t features;
	uint64_t compatible_features;
	uint64_t autoclear_features;
	uint64_t l1_table_off;
	uint64_t image_bytes;
	uint32_t backing_off;
	uint32_t backing_bytes;
};
#define QED_MAGIC           "QED\0"
#define QED_FEATURE_BACKING 1u

union header {
	char magic[4];
	struct qcow2_header qcow2;
	struct qed_header qed;
};

static bool find_backing(const union header *header, uint64_t *off, uint32_t *length)
{
	if (!memcmp(header->magic, QCOW2_MAGIC, sizeof header->magic)) {
		uint32_t version = be32toh(header->qcow2.version);
		*off = be64toh(header->qcow2.backing_off);
		*length = be32toh(header->qcow2.backing_bytes);
		return version >= 1 && version <= QCOW2_VERSION_MAX && *off > 0;
	}
	*off = le32toh(header->qed.backing_off);
	*length = le32toh(header->qed.backing_bytes);
	return !memcmp(header->magic, QED_MAGIC, sizeof header->magic) &&
	       le64toh(header->qed.features) & QED_FEATURE_BACKING;
}

/* The name of a file's backing file; false: it has none. */
static bool read_backing(int fd, uint64_t size, char name[BACKING_NAME_MAX + 1])
{
	union header header;
	uint64_t off;
	uint32_t length;

	if (io_pread_full(&io_look, fd, &header, sizeof header, 0) < 0 || !find_backing(&header, &off, &length) ||
	    length == 0 || length > BACKING_NAME_MAX || size < length || off > size - length ||
	    io_pread_full(&io_look, fd, name, length, off) < 0)
		return false;
	name[length] = '\0';
	return *name != '\0';
}

/* ---- whether it is the image ---- */

struct search {
	const struct identity *image;
	const char *image_name;
	int directory_fd;
	struct name_list leased; /* to be looked at again */
	struct overlay *found;
};

/* Whether the path, relative to the overlay, leads to the image; *error is why it leads nowhere, or 0. */
static bool leads_to_image(const struct search *search, const char *path, int *error)
{
	cleanup_free char *relative = NULL;

	if (path[0] == '/')
		return identity_is_path(search->image, path, error);
	*error = -ENOMEM;
	return asprintf(&relative, "/proc/self/fd/%d/%s", search->directory_fd, path) >= 0 &&
	       identity_is_path(search->image, relative, error);
}

/* A path that leads nowhere may be the image's in a mount that is not there now. */
static bool path_names_image(struct search *search, const char *path)
{
	int error;

	if (strncmp(path, "file:", strlen("file:")) == 0)
		path += strlen("file:");
	if (leads_to_image(search, path, &error))
		return true;
	const char *slash = strrchr(path, '/');
	search->found->by_name = error && !strcmp(slash ? slash + 1 : path, search->image_name);
	return search->found->by_name;
}

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text), end_length = strlen(end);

	return length >= end_length && !strcmp(text + length - end_length, end);
}

/* Any "filename", or "file.filename", however deep: block drivers lie on top of each other. A backing file's name is
 * too short for a depth that hurts. */
static bool json_names_image(struct search *search, json_t *json)
{
	const char *key;
	json_t *value;
	size_t i;

	json_object_foreach(json, key, value)
	{
		if (json_is_string(value)
		            ? ends_with(key, "filename") && path_names_image(search, json_string_value(value))
		            : json_names_image(search, value))
			return true;
	}
	json_array_foreach(json, i, value)
	{
		if (json_names_image(search, value))
			return true;
	}
	return false;
}

/* QEMU reads more than JSON, single quotes for example: what cannot be read here is only looked through. */
static bool names_image(struct search *search, const char *backing)
{
	if (strncmp(backing, "json:", strlen("json:")) != 0)
		return path_names_image(search, backing);
	json_t *json = json_loads(backing + strlen("json:"), 0, NULL);
	bool is_named = json ? json_names_image(search, json) : strstr(backing, search->image_name) != NULL;
	if (!json)
		search->found->by_name = is_named;
	json_decref(json);
	return is_named;
}

/* ---- what is beside it ---- */

/* A tool is at work on it, or about to take the lease, which opening it would break. */
static bool has_tool(const struct stat *status)
{
	struct lock_holder holders[16];
	size_t count = lock_holders(status, holders, sizeof(holders) / sizeof(holders[0]));

	for (size_t i = 0; i < count; i++) {
		if (holders[i].write)
			return true;
	}
	return lock_leased(status);
}

/* 1: an overlay of the image; 0: not; -EAGAIN: somebody has a lease on it. */
static int look_at(struct search *search, const char *name)
{
	char backing[BACKING_NAME_MAX + 1];
	struct stat status;

	if (fstatat(search->directory_fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(status.st_mode) ||
	    status.st_size < QCOW2_BYTES_MIN || identity_has(search->image, status.st_dev, status.st_ino))
		return 0;
	if (has_tool(&status))
		return -EAGAIN;
	cleanup_fd int fd = io_look.open(&io_look, search->directory_fd, name, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	if (fd < 0)
		return fd == -EAGAIN ? fd : 0;
	if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) ||
	    !read_backing(fd, (uint64_t)status.st_size, backing) || !names_image(search, backing))
		return 0;
	snprintf(search->found->name, sizeof search->found->name, "%s", name);
	return 1;
}

static int visit(void *context, const char *name)
{
	struct search *search = context;
	int rc = look_at(search, name);

	return rc == -EAGAIN ? name_list_add(&search->leased, name) : rc;
}

/* With --jobs the overlay may be another tool's image at this moment: he soon sees that it has no volumes. Who takes
 * longer has found some, in a raw image. */
static int look_at_leased(struct search *search)
{
	double deadline = monotonic_seconds() + LEASED_SECONDS;
	int rc = 0;

	for (size_t i = 0; i < search->leased.count && rc != 1; i++) {
		while ((rc = look_at(search, search->leased.names[i])) == -EAGAIN && monotonic_seconds() < deadline &&
		       !stop_requested())
			nanosleep(&(struct timespec){.tv_nsec = WAIT_STEP_MS * 1000000L}, NULL);
	}
	return rc == 1;
}

int overlay_find(const struct identity *image, int directory_fd, const char *image_name, bool wait,
                 struct overlay *found)
{
	struct search search = {
	        .image = image,
	        .image_name = image_name,
	        .directory_fd = directory_fd,
	        .found = found,
	};

	*found = (struct overlay){0};
	int rc = io_look_entries(directory_fd, visit, &search);
	if (rc == 0 && wait)
		rc = look_at_leased(&search);
	name_list_release(&search.leased);
	return rc;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * plain: which way, and the names.
 */
#include "mapdb/plain.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/statvfs.h>

#include "mapdb/cleanup.h"
#include "mapdb/image_settle.h"
#include "mapdb/plain_internal.h"

/* A copy needs as much as the data file takes up; what is shared already is counted too. Better to know before than
 * after an hour. */
static int check_room(const struct image *image)
{
	struct statvfs file_system;
	struct stat status;

	if (fstat(image->data_fd, &status) < 0 || fstatvfs(image->data_fd, &file_system) < 0)
		return -errno;
	uint64_t free_bytes = (uint64_t)file_system.f_bavail * file_system.f_frsize;
	return file_system.f_blocks && free_bytes < (uint64_t)status.st_blocks * 512 ? -ENOSPC : 0;
}

/* The content, the attributes, and on disk. */
static int make_file(struct image *image, int fd, const struct plain_options *options, struct plain_report *report)
{
	const struct io *io = image->io;
	struct stat status;

	if (fstat(image->data_fd, &status) < 0)
		return -errno;
	plain_copy_flags(image->data_fd, fd);
	int rc = report->method == PLAIN_COPY ? check_room(image) : 0;
	if (rc == 0)
		rc = plain_fill(image, fd, options, report);
	if (rc == 0)
		rc = plain_copy_attributes(image->data_fd, &status, fd);
	return rc == 0 ? io->fsync(io, fd) : rc;
}

/* The file takes the name. From the exchange on nothing fails: what cannot be removed is image_clean_stale's. */
static int take_name(struct image *image, const char *hidden)
{
	const struct io *io = image->io;
	struct stat bundle;
	int rc = io->fsync(io, image->parent_fd);

	if (rc == 0 && fstat(image->bundle_fd, &bundle) < 0)
		rc = -errno;
	if (rc == 0 && !image_still_ours(image))
		rc = -EBUSY;
	if (rc == 0)
		rc = image_exchange_checked(image, hidden, &bundle);
	if (rc < 0)
		return rc;
	map_db_close(image->db);
	image->db = NULL;
	io->close(io, image->bundle_fd);
	image->bundle_fd = -1;
	/* If that fails, the bundle may be back after a crash, and must then still be there. */
	rc = io->fsync(io, image->parent_fd) < 0 ? -EINPROGRESS : 0;
	if (rc == 0 && names_remove_bundle(io, image->parent_fd, hidden) == 0)
		io->fsync(io, image->parent_fd);
	/* The old inode has no name any more; with it go lock and lease. */
	io->close(io, image->data_fd);
	image->data_fd = -1;
	image->leased = false;
	return rc;
}

static int replace_by_file(struct image *image, const struct plain_options *options, struct plain_report *report)
{
	const struct io *io = image->io;
	cleanup_free char *hidden = NULL;
	int rc = names_make_stale(image->parent_fd, image->name, PLAIN_MARK, &hidden);

	if (rc < 0)
		return rc;
	int fd = io->open(io, image->parent_fd, hidden, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		return fd;
	rc = make_file(image, fd, options, report);
	io->close(io, fd);
	if (rc == 0)
		rc = take_name(image, hidden);
	if (rc < 0 && rc != -EINPROGRESS)
		io->unlink(io, image->parent_fd, hidden, 0);
	return rc;
}

static int exchange_data(struct image *image, struct plain_report *report)
{
	int rc = image_make_plain(image);

	*report = (struct plain_report){.method = PLAIN_EXCHANGE};
	return rc;
}

struct settling {
	const struct image *image;
	const struct plain_options *options;
	uint64_t done, total;
};

static bool settling_stopped(void *context)
{
	const struct settling *settling = context;

	return settling->options->progress &&
	       settling->options->progress(settling->options->context, settling->done, settling->total);
}

/* Until nothing is left to move. A step that ends early because somebody wants the image ends the whole. */
static int settle_home(struct image *image, const struct plain_options *options, struct plain_report *report)
{
	const struct settle_options settle_options = {.identity = true, .text = "--plain"};
	const struct settle_limits limits = {0};
	struct settling settling = {.image = image, .options = options, .total = image_map_size(image->map)};
	struct settle_progress progress = {0};
	struct image_settle *settle = NULL;
	int rc = image_settle_new(image, &settle_options, settling_stopped, &settling, &settle);

	while (rc == 0 && !progress.finished) {
		image_keep(image);
		rc = image_settle_step(settle, &limits, &progress);
		if (rc < 0)
			break;
		/* More than the image has bytes if some are moved twice. */
		uint64_t left = progress.bytes_left < settling.total ? progress.bytes_left : settling.total;
		settling.done = settling.total - left;
		report->bytes_copied = progress.bytes_moved;
		if (!progress.finished && image_wanted(image))
			rc = -EBUSY;
		else if (!progress.finished && settling_stopped(&settling))
			rc = -ECANCELED;
	}
	image_settle_free(settle);
	return rc;
}

static int settle_and_exchange(struct image *image, const struct plain_options *options, struct plain_report *report)
{
	int rc = image_map_is_identity(image->map) ? 0 : settle_home(image, options, report);

	return rc == 0 ? image_make_plain(image) : rc;
}

int image_to_plain(struct image *image, const struct plain_options *options, struct plain_report *report)
{
	enum plain_method method = options->method;

	assert(image->access == IMAGE_EXCLUSIVE);
	if (image->read_only)
		return -EROFS;
	if (image->bundle_fd < 0 || method == PLAIN_EXCHANGE ||
	    (method == PLAIN_AUTO && image_map_is_identity(image->map)))
		return exchange_data(image, report);
	int rc = -EOPNOTSUPP;
	for (int i = PLAIN_REFLINK; i <= PLAIN_COPY && rc == -EOPNOTSUPP; i++) {
		if (method != PLAIN_AUTO && (int)method != i)
			continue;
		*report = (struct plain_report){.method = (enum plain_method)i};
		rc = i == PLAIN_SETTLE ? settle_and_exchange(image, options, report)
		                       : replace_by_file(image, options, report);
	}
	return rc;
}

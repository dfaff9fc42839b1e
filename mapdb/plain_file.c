/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * plain: the content of the new file, and what else makes it the image's.
 */
#include <errno.h>
#include <linux/fs.h>
#include <linux/limits.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

#include "mapdb/cleanup.h"
#include "mapdb/plain_internal.h"

#define COPY_STEP      (1u << 20)
#define PROGRESS_BYTES (UINT64_C(64) << 20) /* shared between two calls of progress, at most */
#define PROGRESS_EACH  256                  /* extents between two calls of progress, at most */

struct filling {
	const struct io *io;
	const struct plain_options *options;
	struct plain_report *report;
	int from_fd, to_fd;
	uint64_t block;     /* bytes; what clones are aligned to */
	uint64_t data_size; /* bytes of from_fd */
	uint64_t done, total;
	unsigned int extents;
	uint8_t *bytes; /* COPY_STEP */
};

static bool all_zeros(const uint8_t *bytes, size_t length)
{
	return length == 0 || (bytes[0] == 0 && !memcmp(bytes, bytes + 1, length - 1));
}

static bool stopped(const struct filling *filling)
{
	return filling->options->progress &&
	       filling->options->progress(filling->options->context, filling->done, filling->total);
}

/* How far from off on everything is a hole, or everything is data; where the file system cannot tell, it is data. */
static uint64_t run_length(const struct filling *filling, uint64_t off, bool *hole)
{
	off_t data = lseek(filling->from_fd, (off_t)off, SEEK_DATA);

	*hole = data < 0 ? errno == ENXIO : (uint64_t)data > off;
	if (*hole)
		return data < 0 ? UINT64_MAX : (uint64_t)data - off;
	off_t end = lseek(filling->from_fd, (off_t)off, SEEK_HOLE);
	return end <= (off_t)off ? UINT64_MAX : (uint64_t)end - off;
}

static int copy_bytes(struct filling *filling, uint64_t host_off, uint64_t guest_off, size_t length)
{
	int rc = io_pread_full(filling->io, filling->from_fd, filling->bytes, length, host_off);

	if (rc < 0 || all_zeros(filling->bytes, length))
		return rc;
	filling->report->bytes_copied += length;
	return io_pwrite_full(filling->io, filling->to_fd, filling->bytes, length, guest_off);
}

/* What is zeros is a hole in the new file: nothing has been written there yet. */
static int copy_range(struct filling *filling, uint64_t host_off, uint64_t guest_off, uint64_t length)
{
	while (length > 0) {
		bool hole;
		uint64_t n = run_length(filling, host_off, &hole);
		int rc = 0;

		if (n > length)
			n = length;
		if (!hole) {
			n = n < COPY_STEP ? n : COPY_STEP;
			rc = copy_bytes(filling, host_off, guest_off, (size_t)n);
		}
		if (rc < 0)
			return rc;
		host_off += n;
		guest_off += n;
		length -= n;
		filling->done += n;
		if (length > 0 && stopped(filling))
			return -ECANCELED;
	}
	return 0;
}

static int clone_range(struct filling *filling, uint64_t host_off, uint64_t guest_off, uint64_t length)
{
	uint64_t step =
	        PROGRESS_BYTES > filling->block ? PROGRESS_BYTES / filling->block * filling->block : filling->block;

	while (length > 0) {
		uint64_t n = length < step ? length : step;
		int rc = filling->io->clone(filling->io, filling->from_fd, host_off, n, filling->to_fd, guest_off);

		if (rc < 0)
			return rc;
		filling->report->bytes_shared += n;
		host_off += n;
		guest_off += n;
		length -= n;
		filling->done += n;
		if (length > 0 && stopped(filling))
			return -ECANCELED;
	}
	return 0;
}

/* The part of an extent that begins and ends on blocks on both sides is shared, its edges are copied. An end that is
 * the data file's, too, counts as one. */
static int share_extent(struct filling *filling, const struct extent *extent)
{
	uint64_t block = filling->block;
	uint64_t head = (block - extent->host_off % block) % block;

	if (extent->host_off % block != extent->guest_off % block || head >= extent->length)
		return copy_range(filling, extent->host_off, extent->guest_off, extent->length);
	uint64_t middle = extent->length - head;
	bool ends_both = extent->host_off + extent->length == filling->data_size &&
	                 extent->guest_off + extent->length == filling->total;
	if (!ends_both)
		middle -= middle % block;

	int rc = copy_range(filling, extent->host_off, extent->guest_off, head);
	if (rc == 0)
		rc = clone_range(filling, extent->host_off + head, extent->guest_off + head, middle);
	if (rc == 0)
		rc = copy_range(filling, extent->host_off + head + middle, extent->guest_off + head + middle,
		                extent->length - head - middle);
	return rc;
}

static int fill_extents(struct filling *filling, const struct image_map *map)
{
	int rc = 0;

	for (size_t i = 0; i < image_map_count(map) && rc == 0; i++) {
		struct extent extent = image_map_get(map, i);

		if (filling->report->method == PLAIN_REFLINK)
			rc = share_extent(filling, &extent);
		else
			rc = copy_range(filling, extent.host_off, extent.guest_off, extent.length);
		if (rc == 0 && i % PROGRESS_EACH == 0 && stopped(filling))
			rc = -ECANCELED;
	}
	return rc;
}

/* A block of the data file onto the first block of the new one: whether the file system can at all, before anything is
 * copied. */
static int probe_clone(const struct filling *filling)
{
	uint64_t length = filling->block < filling->data_size ? filling->block : filling->data_size;

	if (filling->total < filling->block || filling->data_size < filling->block)
		return -EOPNOTSUPP; /* not worth the trouble */
	int rc = filling->io->clone(filling->io, filling->from_fd, 0, length, filling->to_fd, 0);
	if (rc == -EINVAL) /* files of different kinds, on btrfs: with and without copy-on-write */
		rc = -EOPNOTSUPP;
	if (rc == 0)
		rc = filling->io->ftruncate(filling->io, filling->to_fd, 0);
	return rc == 0 ? filling->io->ftruncate(filling->io, filling->to_fd, filling->total) : rc;
}

int plain_fill(struct image *image, int fd, const struct plain_options *options, struct plain_report *report)
{
	cleanup_free uint8_t *bytes = malloc(COPY_STEP);
	struct filling filling = {
	        .io = image->io,
	        .options = options,
	        .report = report,
	        .from_fd = image->data_fd,
	        .to_fd = fd,
	        .total = image_map_size(image->map),
	        .bytes = bytes,
	};
	struct statvfs file_system;
	struct stat status;

	if (!bytes)
		return -ENOMEM;
	if (fstat(image->data_fd, &status) < 0 || fstatvfs(image->data_fd, &file_system) < 0)
		return -errno;
	filling.data_size = (uint64_t)status.st_size;
	filling.block = file_system.f_bsize > 0 ? file_system.f_bsize : 4096;
	int rc = image->io->ftruncate(image->io, fd, filling.total);
	if (rc == 0 && report->method == PLAIN_REFLINK)
		rc = probe_clone(&filling);
	return rc == 0 ? fill_extents(&filling, image->map) : rc;
}

/* ---- attributes ---- */

void plain_copy_flags(int from_fd, int to_fd)
{
	const int wanted = FS_NOCOW_FL | FS_COMPR_FL | FS_NOATIME_FL | FS_NODUMP_FL | FS_SYNC_FL;
	int from = 0, to = 0;

	if (ioctl(from_fd, FS_IOC_GETFLAGS, &from) < 0 || ioctl(to_fd, FS_IOC_GETFLAGS, &to) < 0)
		return;
	int flags = (to & ~wanted) | (from & wanted);
	if (flags != to && ioctl(to_fd, FS_IOC_SETFLAGS, &flags) < 0)
		return;
}

static int copy_xattr(int from_fd, int to_fd, const char *name)
{
	cleanup_free char *value = malloc(XATTR_SIZE_MAX);

	if (!value)
		return -ENOMEM;
	ssize_t length = fgetxattr(from_fd, name, value, XATTR_SIZE_MAX);
	if (length < 0)
		return errno == ENODATA ? 0 : -errno;
	if (fsetxattr(to_fd, name, value, (size_t)length, 0) == 0)
		return 0;
	/* Labels are the system's business, which has given the new file its own. */
	return strncmp(name, "security.", strlen("security.")) == 0 ? 0 : -errno;
}

static int copy_xattrs(int from_fd, int to_fd)
{
	cleanup_free char *names = malloc(XATTR_LIST_MAX);
	ssize_t length = names ? flistxattr(from_fd, names, XATTR_LIST_MAX) : 0;
	int rc = names ? 0 : -ENOMEM;

	if (length < 0)
		return errno == EOPNOTSUPP ? 0 : -errno;
	for (char *name = names; rc == 0 && name < names + length; name += strlen(name) + 1)
		rc = copy_xattr(from_fd, to_fd, name);
	return rc;
}

int plain_copy_attributes(int from_fd, const struct stat *status, int to_fd)
{
	const struct timespec times[2] = {status->st_atim, status->st_mtim};
	int rc = fchown(to_fd, (uid_t)-1, status->st_gid) < 0 ? -errno : copy_xattrs(from_fd, to_fd);

	if (rc == 0 && fchmod(to_fd, status->st_mode & 07777) < 0)
		rc = -errno;
	if (rc == 0 && futimens(to_fd, times) < 0)
		rc = -errno;
	/* Last: from here on he may write to it. What would run with other rights than his goes with that. */
	if (rc == 0 && fchown(to_fd, status->st_uid, (gid_t)-1) < 0)
		rc = -errno;
	return rc;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * check: the data file: is everything there that the map names, and what is there besides.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>

#include "mapdb/check_internal.h"
#include "mapdb/cleanup.h"

#define FIEMAP_EXTENTS 512u

struct leak_walk {
	struct host_index *index;
	uint64_t block; /* bytes */
	leak_visit visit;
	void *context;
};

/* Of an allocated range, the whole blocks that no extent names. */
static int visit_allocated(struct leak_walk *walk, uint64_t start, uint64_t end)
{
	while (start < end) {
		struct extent found;
		bool mapped = host_index_lookup(walk->index, start, &found);
		uint64_t length = found.length < end - start ? found.length : end - start;

		if (!mapped) {
			uint64_t from = (start + walk->block - 1) / walk->block * walk->block;
			uint64_t to = (start + length) / walk->block * walk->block;
			int rc = from < to ? walk->visit(walk->context, from, to - from) : 0;
			if (rc != 0)
				return rc;
		}
		start += length;
	}
	return 0;
}

/* Knows space that is allocated without having been written, too. -EOPNOTSUPP where there is no such call. */
static int walk_with_fiemap(struct leak_walk *walk, int fd, uint64_t size)
{
	cleanup_free struct fiemap *map = malloc(sizeof(struct fiemap) + FIEMAP_EXTENTS * sizeof(struct fiemap_extent));
	uint64_t off = 0;

	if (!map)
		return -ENOMEM;
	while (off < size) {
		memset(map, 0, sizeof *map);
		map->fm_start = off;
		map->fm_length = size - off;
		map->fm_extent_count = FIEMAP_EXTENTS;
		if (ioctl(fd, FS_IOC_FIEMAP, map) < 0)
			return errno == ENOTTY || errno == EBADR || errno == EINVAL ? -EOPNOTSUPP : -errno;
		if (map->fm_mapped_extents == 0)
			return 0;
		for (unsigned int i = 0; i < map->fm_mapped_extents; i++) {
			const struct fiemap_extent *extent = &map->fm_extents[i];
			uint64_t start = extent->fe_logical > off ? extent->fe_logical : off;
			uint64_t end = extent->fe_logical + extent->fe_length;

			if (end > size)
				end = size;
			int rc = start < end ? visit_allocated(walk, start, end) : 0;
			if (rc != 0)
				return rc;
			if (end > off)
				off = end;
			if (extent->fe_flags & FIEMAP_EXTENT_LAST)
				return 0;
		}
	}
	return 0;
}

static int walk_with_seek(struct leak_walk *walk, int fd, uint64_t size)
{
	uint64_t off = 0;

	while (off < size) {
		off_t start = lseek(fd, (off_t)off, SEEK_DATA);
		if (start < 0)
			return errno == ENXIO ? 0 : -errno;
		off_t end = lseek(fd, start, SEEK_HOLE);
		if (end < 0)
			return -errno;
		int rc = visit_allocated(walk, (uint64_t)start, (uint64_t)end);
		if (rc != 0)
			return rc;
		off = (uint64_t)end;
	}
	return 0;
}

int leaks_visit(int data_fd, struct image_map *map, leak_visit visit, void *context)
{
	struct leak_walk walk = {.visit = visit, .context = context};
	struct statvfs file_system;
	struct stat status;

	if (fstat(data_fd, &status) < 0 || fstatvfs(data_fd, &file_system) < 0)
		return -errno;
	walk.block = file_system.f_frsize ? file_system.f_frsize : 4096;
	/* What a file system has prepared behind the end of the file is its own affair. A last block that is cut is
	 * not. */
	uint64_t size = ((uint64_t)status.st_size + walk.block - 1) / walk.block * walk.block;
	int rc = host_index_new(map, &walk.index);
	if (rc < 0)
		return rc;
	rc = walk_with_fiemap(&walk, data_fd, size);
	if (rc == -EOPNOTSUPP)
		rc = walk_with_seek(&walk, data_fd, size);
	host_index_free(walk.index);
	return rc;
}

struct leak_sum {
	const struct check *check;
	uint64_t bytes, ranges, first;
};

static int add_leak(void *context, uint64_t host_off, uint64_t length)
{
	struct leak_sum *sum = context;

	if (sum->ranges++ == 0)
		sum->first = host_off;
	sum->bytes += length;
	return check_stopped(sum->check) ? -ECANCELED : 0;
}

int check_data(struct check *check)
{
	struct leak_sum sum = {.check = check};
	uint64_t host_end = image_map_host_end(check->map);

	/* The daemon, if it uses the image, may be just growing or cutting it. */
	if (check->data_size < host_end)
		check_add(check, FINDING_DATA, check->unused ? FAULT : NOTE,
		          "the data file is too short: the map names %" PRIu64 " bytes, it has %" PRIu64
		          "; what is missing reads as zeros",
		          host_end, check->data_size);
	int rc = leaks_visit(check->data_fd, check->map, add_leak, &sum);
	if (rc < 0 || sum.bytes == 0)
		return rc;
	if (check->unused)
		check_add_bytes(check, FINDING_LEAK, REPAIRABLE, sum.bytes,
		                "%" PRIu64 " bytes of the data file belong to no extent (%" PRIu64
		                " ranges, the first at host offset %" PRIu64 ")",
		                sum.bytes, sum.ranges, sum.first);
	else
		check_add_bytes(check, FINDING_LEAK, NOTE, sum.bytes,
		                "%" PRIu64 " bytes of the data file belong to no extent; "
		                "as the image is in use, they may be on their way",
		                sum.bytes);
	return 0;
}

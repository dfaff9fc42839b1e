/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Whether the host has the room that a change needs after COMMIT. Holes in the data file have been filled by then
 * (map_db_reserve_redo). What is left is a journal for the second transaction, and, on file systems that do not write
 * in place, blocks for all that redo changes: how much exactly only the file system knows.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#include "mapdb/image_internal.h"

#define COMMIT_ROOM   (UINT64_C(4) << 20) /* bytes; ample for the journal */
#define EXTENTS_ASKED 256

/* True if a clone of the file (cp --reflink) or a snapshot shares blocks with it: written bytes then go elsewhere.
 * Where the file system cannot tell, it has no such thing. */
static bool shares_blocks(int fd)
{
	_Alignas(struct fiemap) char buffer[sizeof(struct fiemap) + EXTENTS_ASKED * sizeof(struct fiemap_extent)] = {0};
	struct fiemap *map = (struct fiemap *)buffer;

	map->fm_length = FIEMAP_MAX_OFFSET;
	map->fm_extent_count = EXTENTS_ASKED;
	for (;;) {
		if (ioctl(fd, FS_IOC_FIEMAP, map) < 0 || map->fm_mapped_extents == 0)
			return false;
		for (uint32_t i = 0; i < map->fm_mapped_extents; i++) {
			if (map->fm_extents[i].fe_flags & FIEMAP_EXTENT_SHARED)
				return true;
		}
		const struct fiemap_extent *last = &map->fm_extents[map->fm_mapped_extents - 1];
		if (last->fe_flags & FIEMAP_EXTENT_LAST)
			return false;
		map->fm_start = last->fe_logical + last->fe_length;
	}
}

static bool writes_in_place(int fd, uint32_t magic)
{
	switch (magic) {
	case EXT4_SUPER_MAGIC: /* ext2's and ext3's, too */
	case TMPFS_MAGIC:
		return true;
	case XFS_SUPER_MAGIC:
		return !shares_blocks(fd);
	default:
		return false;
	}
}

/* Takes as much and gives it back: that asks for what this process may have, with quotas and reserves. -EOPNOTSUPP: the
 * file system cannot tell that way. */
static int try_to_allocate(const struct image *image, uint64_t bytes)
{
	const struct io *io = image->io;
	int fd = io->open(io, image->bundle_fd, ".", O_TMPFILE | O_WRONLY, 0);

	if (fd < 0)
		return fd == -EISDIR || fd == -EINVAL ? -EOPNOTSUPP : fd;
	int rc = io->fallocate(io, fd, 0, 0, bytes);
	io->close(io, fd);
	return rc;
}

int image_check_room(const struct image *image, const struct redo_overlay *redo)
{
	struct statfs status;

	if (fstatfs(image->data_fd, &status) < 0)
		return -errno;
	uint64_t block = (uint64_t)status.f_bsize, needed = COMMIT_ROOM + map_db_unwritten(image->db);
	if (!writes_in_place(image->data_fd, (uint32_t)status.f_type)) {
		needed += map_db_unwritten(image->db); /* should it have to be taken back */
		needed += redo_overlay_blocks(redo, block) * block;
	}
	int rc = try_to_allocate(image, needed);
	if (rc == -EOPNOTSUPP)
		rc = status.f_blocks && (uint64_t)status.f_bavail < needed / block ? -ENOSPC : 0;
	return rc;
}

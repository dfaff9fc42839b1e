/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mapdb/host_space.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

/* How far around a range to look for the rest of its blocks; some hosts allocate by more than HOST_BLOCK. */
#define AROUND (UINT64_C(64) << 10)

int host_stretch_at(int data_fd, uint64_t host_off, struct host_stretch *out)
{
	off_t end = lseek(data_fd, (off_t)host_off, SEEK_HOLE);

	*out = (struct host_stretch){.start = host_off, .end = UINT64_MAX};
	if (end < 0)
		return errno == ENXIO ? 0 : -errno;
	out->data = (uint64_t)end > host_off;
	if (!out->data)
		end = lseek(data_fd, (off_t)host_off, SEEK_DATA);
	if (end < 0)
		return errno == ENXIO ? 0 : -errno;
	out->end = (uint64_t)end;
	return 0;
}

void host_start_writing(int data_fd, uint64_t host_off, uint64_t length)
{
	(void)sync_file_range(data_fd, (off_t)host_off, (off_t)length, SYNC_FILE_RANGE_WRITE);
}

struct release {
	const struct io *io;
	int data_fd;
	uint64_t from, to; /* gathered, to be punched with one call */
	int rc;
};

static void punch_gathered(struct release *release)
{
	if (release->from == release->to)
		return;
	int rc = release->io->fallocate(release->io, release->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	                                release->from, release->to - release->from);
	if (rc < 0 && release->rc == 0)
		release->rc = rc;
}

static void gather(struct release *release, uint64_t from, uint64_t to)
{
	if (from >= to)
		return;
	if (from > release->to || release->from == release->to) {
		punch_gathered(release);
		release->from = from;
		release->to = to;
	} else if (to > release->to) {
		release->to = to;
	}
}

int host_space_release(const struct io *io, int data_fd, const struct host_index *index, const struct extent *ranges,
                       size_t count)
{
	struct release release = {.io = io, .data_fd = data_fd};

	for (size_t i = 0; i < count; i++) {
		uint64_t first = ranges[i].host_off, last = first + ranges[i].length, start, end;

		if (!host_index_unmapped(index, first, &start, &end))
			continue;
		first = first > AROUND ? first - AROUND : 0;
		start = start > first ? start : first;
		end = end < last + AROUND ? end : last + AROUND;
		gather(&release, (start + HOST_BLOCK - 1) / HOST_BLOCK * HOST_BLOCK, end / HOST_BLOCK * HOST_BLOCK);
	}
	punch_gathered(&release);
	return release.rc;
}

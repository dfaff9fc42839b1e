/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mapdb/host_space.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

/* How far around a range to look for the rest of its blocks; some hosts allocate by more than HOST_BLOCK. */
#define AROUND    (UINT64_C(64) << 10)
/* Of a hole, at a time; and a boundary of whatever hosts allocate by. */
#define PUNCH_MAX (UINT64_C(1) << 20)

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

int host_space_punch(const struct host_puncher *puncher, uint64_t host_off, uint64_t length)
{
	uint64_t end = host_off + length;
	int rc = 0;

	while (host_off < end) {
		uint64_t next = (host_off / PUNCH_MAX + 1) * PUNCH_MAX;

		next = next < end ? next : end;
		int error =
		        puncher->io->fallocate(puncher->io, puncher->data_fd,
		                               FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, host_off, next - host_off);
		rc = rc < 0 ? rc : error;
		host_off = next;
		puncher->between(puncher->context);
	}
	return rc;
}

struct release {
	const struct host_puncher *puncher;
	uint64_t from, to; /* gathered, to be punched at once */
	int rc;
};

static void punch_gathered(struct release *release)
{
	int rc = host_space_punch(release->puncher, release->from, release->to - release->from);

	if (release->rc == 0)
		release->rc = rc;
}

static void gather(struct release *release, uint64_t from, uint64_t to)
{
	if (from >= to)
		return;
	if (from > release->to || from < release->from) {
		punch_gathered(release);
		release->from = from;
		release->to = to;
	} else if (to > release->to) {
		release->to = to;
	}
}

int host_space_release(const struct host_puncher *puncher, const struct host_index *index, const struct extent *ranges,
                       size_t count)
{
	struct release release = {.puncher = puncher};

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

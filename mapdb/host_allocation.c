/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mapdb/host_allocation.h"

#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

void host_allocation_start(struct host_allocation *allocation, int data_fd)
{
	memset(allocation, 0, sizeof *allocation);
	allocation->data_fd = data_fd;
}

static struct fiemap *answer_of(struct host_allocation *allocation)
{
	return (struct fiemap *)allocation->answer;
}

/* Some hosts have decided where to put what is cached only once that is written. */
static void ask(struct host_allocation *allocation, uint64_t host_off)
{
	struct fiemap *map = answer_of(allocation);

	*map = (struct fiemap){
	        .fm_start = host_off,
	        .fm_length = FIEMAP_MAX_OFFSET - host_off,
	        .fm_flags = allocation->asked ? 0 : FIEMAP_FLAG_SYNC,
	        .fm_extent_count = HOST_ALLOCATION_ASKED,
	};
	allocation->unknown = ioctl(allocation->data_fd, FS_IOC_FIEMAP, map) < 0;
	allocation->asked = true;
	allocation->next = 0;
}

/* Where the answer ends before what was asked for does; 0: there is no more. */
static uint64_t rest_of_answer(const struct fiemap *map)
{
	const struct fiemap_extent *last = map->fm_mapped_extents ? &map->fm_extents[map->fm_mapped_extents - 1] : NULL;

	return last && !(last->fe_flags & FIEMAP_EXTENT_LAST) ? last->fe_logical + last->fe_length : 0;
}

bool host_allocation_next(struct host_allocation *allocation, uint64_t host_off, uint64_t *start, uint64_t *end)
{
	struct fiemap *map = answer_of(allocation);

	if (!allocation->asked)
		ask(allocation, host_off);
	while (!allocation->unknown) {
		for (; allocation->next < map->fm_mapped_extents; allocation->next++) {
			const struct fiemap_extent *extent = &map->fm_extents[allocation->next];

			*start = extent->fe_logical > host_off ? extent->fe_logical : host_off;
			*end = extent->fe_logical + extent->fe_length;
			if (*end > host_off)
				return true;
		}
		uint64_t rest = rest_of_answer(map);
		if (rest == 0)
			return false;
		ask(allocation, rest > host_off ? rest : host_off);
	}
	*start = host_off;
	*end = UINT64_MAX;
	return true;
}

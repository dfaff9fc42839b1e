/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/view.h"

#include <errno.h>
#include <string.h>

/* Zeros for what of [guest_off, guest_off + length) will be gone. */
static void blank(const struct view *view, uint8_t *bytes, uint64_t length, uint64_t guest_off)
{
	uint64_t end = guest_off + length;
	for (size_t i = guest_range_find(view->gone, view->gone_count, guest_off); i < view->gone_count; i++) {
		uint64_t from = view->gone[i].guest_off, to = from + view->gone[i].length;
		if (from >= end)
			break;
		from = from > guest_off ? from : guest_off;
		to = to < end ? to : end;
		memset(bytes + (from - guest_off), 0, to - from);
	}
}

int view_read(struct view *view, void *buffer, uint64_t length, uint64_t off)
{
	uint8_t *to = buffer;
	uint64_t size = image_map_size(view->map);
	if (off > view->length || length > view->length - off || view->off > size || off > size - view->off ||
	    length > size - view->off - off)
		return -ERANGE;
	while (length) {
		struct extent extent;
		image_map_lookup(view->map, view->off + off, length, &extent);
		int r = io_pread_full(view->io, view->data_fd, to, extent.length, extent.host_off);
		if (r < 0) {
			/* Whatever the host's file system says: a network's has many words for it. */
			view->error = r == -ENOMEM ? -ENOMEM : -EIO;
			return view->error;
		}
		if (view->pending)
			redo_overlay_patch(view->pending, extent.host_off, to, extent.length);
		if (view->changes)
			redo_overlay_patch(view->changes, extent.host_off, to, extent.length);
		blank(view, to, extent.length, view->off + off);
		to += extent.length;
		off += extent.length;
		length -= extent.length;
	}
	return 0;
}

int view_read_runs(struct view *view, const struct run_index *runs, uint32_t cluster_size, void *buffer,
                   uint64_t length, uint64_t off)
{
	uint8_t *to = buffer;
	while (length) {
		uint64_t vcn = off / cluster_size, within = off % cluster_size;
		if (vcn >= run_index_clusters(runs))
			return -ERANGE;
		struct run run = run_index_lookup(runs, vcn);
		uint64_t here = run.length > UINT64_MAX / cluster_size ? UINT64_MAX : run.length * cluster_size;
		here -= within;
		if (here > length)
			here = length;
		if (run.lcn == RUN_HOLE) {
			memset(to, 0, here);
		} else {
			int r = view_read(view, to, here, run.lcn * cluster_size + within);
			if (r < 0)
				return r;
		}
		to += here;
		off += here;
		length -= here;
	}
	return 0;
}

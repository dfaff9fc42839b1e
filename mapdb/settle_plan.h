/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * settle_plan: which pieces of an image are worth moving on the host, and where to. Pure: a map in, a list of moves out.
 *
 * The host's file is thought of as planes, one after the other, each as long as the image (rounded up to 2 MiB): plane k begins
 * at host offset k * stride, and what belongs at guest offset g lies, if it is in that plane, at k * stride + g. So pieces that are
 * neighbours in the guest become neighbours on the host in whatever order they are moved, and a plane that is mostly hole
 * costs nothing. Plane 0 is where a plain file has its bytes.
 *
 * Only short extents move. They go where most of them become one extent with their neighbours, and only if the map gets shorter by
 * it; so a plan for a map that was settled is empty, and a pass that was interrupted is resumed by planning again.
 *
 * A move's target is unmapped in the map it was planned for, and no other move's target, so moves can be carried out in
 * any order, in any portions. Any thread.
 */
#ifndef ZCFS_SETTLE_PLAN_H
#define ZCFS_SETTLE_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mapdb/image_map.h"

#define SETTLE_PLANE_ALIGN       (UINT64_C(2) << 20) /* of planes: no alignment that the guest chose is lost */
#define SETTLE_THRESHOLD_DEFAULT (UINT64_C(1) << 20)

struct settle_plan_options {
	uint64_t threshold;  /* bytes: extents of this length and longer stay. 0: SETTLE_THRESHOLD_DEFAULT */
	uint64_t host_limit; /* nothing is put at or past this host offset. 0: no limit */
	bool resume;	     /* go on with a pass that fills the plane at plane_base: what is there stays, and it is chosen where
			      * several are as good */
	uint64_t plane_base; /* only with resume */
	bool identity;	     /* the goal is a plain file: whatever is not in plane 0 goes there, of any length; what cannot yet, because
			      * something else is in the way, goes to a plane past everything, for another plan */
};

struct settle_plan {
	struct extent *moves; /* guest range and new host_off; in guest order, not overlapping */
	size_t count;
	uint64_t bytes;	      /* of all moves, holes included */
	uint64_t plane_base;  /* of the plane into which most bytes go */
	uint64_t host_end;    /* first host byte past every move's target */
};

/* index: of the map. -ENOMEM. An empty plan is a success. The moves are freed with settle_plan_release(). */
int settle_plan_make(const struct image_map *map, const struct host_index *index,
		     const struct settle_plan_options *options, struct settle_plan *plan);
void settle_plan_release(struct settle_plan *plan);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * layout: between a scan and a plan: what of a volume is an object, what may move, what must stay, and where an
 * attribute's clusters will be.
 */
#ifndef ZCFS_LAYOUT_H
#define ZCFS_LAYOUT_H

#include "defrag/plan.h"
#include "defrag/scan.h"

struct layout {
	struct plan_object *objects; /* one a stream that has clusters, in the order of scan.attrs */
	uint32_t *first_attr;        /* of each object: its first extent in scan.attrs */
	size_t count;
	struct run_list runs; /* pieces of the objects */
	struct plan_input input;
	struct plan plan;
	struct plan_permutation permutation;
};

/* Whether a stream may move at all, by any extent of it. */
enum plan_kind layout_kind(const struct scan *scan, const struct attr *attr);

/* found: of the files that the options select, see defrag/choose.h; may be NULL. */
int layout_make(const struct scan *scan, const struct pass_options *options, uint8_t *found, struct layout *layout);
void layout_free(struct layout *layout);

static inline bool layout_moves(const struct layout *layout, size_t object)
{
	return layout->plan.targets[object].first_piece != PLAN_STAYS;
}

/* Appends the new runs of one extent of an object to *runs. *cluster is the index, among the object's clusters, of the
 * extent's first one; it is advanced past the extent. */
int layout_new_runs(const struct scan *scan, const struct layout *layout, size_t object, const struct attr *attr,
                    uint64_t *cluster, struct run_list *runs);

const char *plan_reason_text(const struct scan *scan, enum plan_reason reason, const struct attr *attr);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/free_space.h"

#include <errno.h>
#include <stdlib.h>

#include "defrag/preflight.h"
#include "defrag/verify.h"

int free_space_ranges(const struct scan *s, struct guest_range **out, size_t *count)
{
	uint64_t cluster_size = s->geometry.cluster_size;
	struct guest_range *ranges = malloc((s->free.count + 1) * sizeof(*ranges));
	if (!ranges)
		return -ENOMEM;
	for (size_t i = 0; i < s->free.count; i++)
		ranges[i] = (struct guest_range){
		        .guest_off = s->view->off + s->free.runs[i].lcn * cluster_size,
		        .length = s->free.runs[i].length * cluster_size,
		};
	*out = ranges;
	*count = s->free.count;
	return 0;
}

static int check_runs(const struct scan *s, const struct guest_range *ranges, size_t count,
                      struct volume_report *report)
{
	uint64_t cluster_size = s->geometry.cluster_size;
	for (size_t i = 0; i < s->runs.count; i++) {
		const struct run *run = &s->runs.runs[i];
		if (run->lcn == RUN_HOLE)
			continue;
		uint64_t off = s->view->off + run->lcn * cluster_size, end = off + run->length * cluster_size;
		size_t next = guest_range_find(ranges, count, off);
		if (next < count && ranges[next].guest_off < end)
			return unproven(report, "cluster %llu is in use, but would be given back",
			                (unsigned long long)run->lcn);
	}
	return 0;
}

int free_space_prove(const struct scan *s, const struct guest_range *ranges, size_t count, struct volume_report *report,
                     scan_progress progress, void *context)
{
	const struct changes none = {0};
	const struct verify_expectation expected = {
	        .streams_moved = report->attributes,
	        .gone = ranges,
	        .gone_count = count,
	};
	struct scan *after = NULL;
	int r = check_runs(s, ranges, count, report);
	if (r == 0)
		r = preflight_are_free(s->view, &s->free);
	if (r == 1)
		return report->result == VOLUME_DONE ? unproven(report, "libntfs-3g finds other clusters free") : 1;
	if (r == 0)
		r = verify_volume(s, s->view->map, &none, &expected, report, progress, context, &after);
	if (r == 0 && (after->clusters_free != s->clusters_free || after->free.count != s->free.count))
		r = unproven(report, "other clusters would be free afterwards");
	scan_free(after);
	return r;
}

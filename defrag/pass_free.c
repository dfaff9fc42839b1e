/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the child of a guest pass says is free. If that is wrong, data is lost; so besides what the child has proven,
 * all is checked that can be without a look at the guest's metadata: who lies gets his own volume's bytes, and no
 * other's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "defrag/pass_internal.h"

int take_free(struct pass *p, const uint8_t *payload, size_t size)
{
	struct pass_report *report = p->report;
	size_t count = size / sizeof(struct guest_range);
	if (!p->options->find_free || !count || size % sizeof(struct guest_range))
		return -EBADMSG;
	if (p->free_capacity - report->free_count < count) {
		size_t capacity = p->free_capacity + p->free_capacity / 2 + count;
		void *grown = reallocarray(report->free, capacity, sizeof(*report->free));
		if (!grown)
			return -ENOMEM;
		report->free = grown;
		p->free_capacity = capacity;
	}
	memcpy(report->free + report->free_count, payload, size);
	for (size_t i = 0; i < count; i++, report->free_count++) {
		/* No byte is free twice, so an endless stream is noticed before it fills the memory. */
		uint64_t length = report->free[report->free_count].length,
		         size_of_image = image_map_size(p->image->map);
		if (length < IMAGE_MAP_UNIT || length > size_of_image - p->bytes_free)
			return -EBADMSG;
		p->bytes_free += length;
	}
	return 0;
}

/* Of what volume the first cluster is; NULL unless it is exactly one's, and not the first cluster, where each begins.
 */
static const struct volume_report *volume_at(const struct pass_report *report, uint64_t off)
{
	const struct volume_report *found = NULL;
	for (size_t i = 0; i < report->volume_count; i++) {
		const struct volume_report *volume = &report->volumes[i];
		if (off < volume->off || off - volume->off >= volume->length)
			continue;
		if (found || off == volume->off)
			return NULL;
		found = volume;
	}
	return found;
}

/* Whole clusters of a volume that may be changed, and of no other. */
static bool range_is_sane(const struct pass_report *report, const struct guest_range *range)
{
	const struct volume_report *volume = volume_at(report, range->guest_off);
	if (!volume || volume->result != VOLUME_DONE || volume->cluster_size < IMAGE_MAP_UNIT ||
	    volume_at(report, range->guest_off + range->length - 1) != volume)
		return false;
	for (size_t i = 0; i < report->volume_count; i++) {
		const struct volume_report *other = &report->volumes[i];
		if (other != volume && other->off >= range->guest_off && other->off - range->guest_off < range->length)
			return false;
	}
	return (range->guest_off - volume->off) % volume->cluster_size == 0 &&
	       range->length % volume->cluster_size == 0;
}

static int compare_ranges(const void *a, const void *b)
{
	uint64_t x = ((const struct guest_range *)a)->guest_off, y = ((const struct guest_range *)b)->guest_off;
	return x < y ? -1 : x > y;
}

/* As many as the volumes' reports say. */
static bool count_is_right(const struct pass *p)
{
	uint64_t left = p->bytes_free;
	for (size_t i = 0; i < p->report->volume_count; i++) {
		const struct volume_report *volume = &p->report->volumes[i];
		if (volume->result != VOLUME_DONE)
			continue;
		if (volume->cluster_size < IMAGE_MAP_UNIT || volume->clusters_free > left / volume->cluster_size)
			return false;
		left -= volume->clusters_free * volume->cluster_size;
	}
	return left == 0;
}

int check_free(struct pass *p)
{
	struct pass_report *report = p->report;
	/* Volumes need not be in the order of their numbers. */
	if (report->free_count)
		qsort(report->free, report->free_count, sizeof(*report->free), compare_ranges);
	for (size_t i = 0; i < report->free_count; i++) {
		const struct guest_range *range = &report->free[i], *next = range + 1;
		if (!range_is_sane(report, range) ||
		    (i + 1 < report->free_count && next->guest_off - range->guest_off < range->length))
			return -ECHILD;
	}
	return count_is_right(p) ? 0 : -ECHILD;
}

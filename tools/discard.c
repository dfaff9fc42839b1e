/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/discard.h"

#include <errno.h>

static bool user_stops(void *context, uint64_t done, uint64_t total)
{
	progress_show(context, "giving back", done, total, true);
	return stop_requested() || stop_time_is_up();
}

int discard_free(struct image *image, const struct pass_report *found, const struct defrag_options *options,
                 struct progress *progress, struct discard_report *report)
{
	const struct discard_options discard_options = {
	        .dry_run = options->discard.dry_run,
	        .text = options->text,
	        .stop = user_stops,
	        .context = progress,
	};
	int error = image_discard(image, found->free, found->free_count, &discard_options, report);
	if (error != -ECANCELED)
		return error;
	return stop_requested() ? -EINTR : 0;
}

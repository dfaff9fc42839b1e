/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * progress: how far a pass has come, on a terminal's last line. The user's wish to stop (tools/stop.h) reaches the pass
 * through it.
 */
#ifndef ZCFS_PROGRESS_H
#define ZCFS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "defrag/guest_pass.h"
#include "tools/stop.h"

struct progress {
	const char *image; /* printable */
	bool show;
	bool shown; /* something stands on the line */
	struct timespec last;
};

/* True if standard error is a terminal that can erase a line. */
bool progress_possible(void);
/* Shows a line, unless the last one is too young. */
void progress_line(struct progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The callback of struct pass_options; context is a struct progress. */
int progress_report(void *context, unsigned int volume, enum pass_phase phase, uint64_t done, uint64_t total);
/* The same for image_to_plain(). */
bool progress_plain(void *context, uint64_t done, uint64_t total);
void progress_erase(struct progress *progress);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * monotonic: a clock that nobody sets.
 */
#ifndef ZCFS_MONOTONIC_H
#define ZCFS_MONOTONIC_H

#include <time.h>

static inline double monotonic_seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

#endif

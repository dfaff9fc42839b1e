/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * coarse_clock: a clock that costs next to nothing to look at, and moves on every few milliseconds.
 */
#ifndef ZCFS_COARSE_CLOCK_H
#define ZCFS_COARSE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t coarse_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

#endif

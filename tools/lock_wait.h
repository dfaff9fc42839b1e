/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * lock_wait: sleeping until an image's lock is free. One thread; uses SIGALRM and the interval timer while it sleeps.
 */
#ifndef ZCFS_LOCK_WAIT_H
#define ZCFS_LOCK_WAIT_H

#include <stdbool.h>

#include "tools/locate.h"

/* Sleeps until nobody holds the lock, for a second at most and no longer than seconds (0: no limit of its own). False:
 * it is not the lock that one can wait for: it is free already, or the image is not to be had. */
bool lock_wait(const struct location *location, double seconds);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * thread: starts the daemon's threads that live by themselves.
 *
 * A thread inherits from the one that starts it, which may be that of a ring: often bound to one processor, and named after it. These
 * may run wherever the daemon may, leave all signals to the main thread, and are called what they are.
 */
#ifndef ZCFS_THREAD_H
#define ZCFS_THREAD_H

#include <pthread.h>
#include <stdbool.h>

/* Any thread. Nobody joins it. name: at most 15 characters. 0 or -errno. */
int thread_start(const char *name, void *(*run)(void *argument), void *argument);

/* It may run wherever the daemon may. False: it could not be done. */
bool thread_unbind(pthread_t thread);

#endif

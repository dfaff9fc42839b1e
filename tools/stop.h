/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * stop: the user's wish to end a command: now, or when its time is up. SIGINT, SIGTERM and SIGHUP only set a flag, for the work to
 * look at where it can end well; so it does with the clock. One process-wide instance of each; a child has its parent's.
 */
#ifndef ZCFS_STOP_H
#define ZCFS_STOP_H

#include <stdbool.h>

/* Installs the handlers, but for signals that are ignored from the start: nohup(1) and shells mean it. Ignored are
 * SIGIO, which a broken lease raises, SIGXFSZ, which a file does that becomes longer than ulimit allows, and SIGPIPE, where
 * whoever reads the output has gone away: their default actions would kill in mid-pass. */
void stop_on_signals(void);
/* Installs that of one signal in any case. */
void stop_on_signal(int number);
bool stop_requested(void);

/* From now on the process has so many seconds. */
void stop_after(double seconds);
double stop_seconds_left(void); /* INFINITY without stop_after */
bool stop_time_is_up(void);

#endif

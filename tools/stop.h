/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * stop: the user's wish to end a command. SIGINT, SIGTERM and SIGHUP only set a flag, for the work to look at where it can end well.
 * One process-wide instance of the signal handlers.
 */
#ifndef ZCFS_STOP_H
#define ZCFS_STOP_H

#include <stdbool.h>

/* Installs the handlers. Ignored are SIGIO, which a broken lease raises, and SIGXFSZ, which a file does that becomes longer than ulimit
 * allows: their default actions would kill in mid-pass. */
void stop_on_signals(void);
bool stop_requested(void);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * log: where the daemon says what went wrong: standard error in the foreground, syslog afterwards. Any thread.
 */
#ifndef ZCFS_LOG_H
#define ZCFS_LOG_H

#include <stdbool.h>

void log_to_syslog(void); /* from now on; until then standard error */

/* priority is one of syslog's. No newline at the end of format. */
void log_message(int priority, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <syslog.h>

static atomic_bool use_syslog;

void log_to_syslog(void)
{
	openlog("zcfs", LOG_PID, LOG_DAEMON);
	atomic_store(&use_syslog, true);
}

void log_message(int priority, const char *format, ...)
{
	char text[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);

	if (atomic_load(&use_syslog))
		syslog(priority, "%s", text);
	else
		fprintf(stderr, "zcfs: %s\n", text);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/output.h"

#include <poll.h>

/* errno is that of the first write that failed, and long gone. */
static bool reader_is_gone(FILE *file)
{
	struct pollfd end = {.fd = fileno(file), .events = POLLOUT};
	return poll(&end, 1, 0) == 1 && end.revents & (POLLERR | POLLHUP);
}

bool output_lost(FILE *file)
{
	fflush(file);
	return ferror(file) && !reader_is_gone(file);
}

bool output_close(FILE *file)
{
	bool lost = output_lost(file), told = ferror(file);
	return (fclose(file) != 0 && !told) || lost;
}

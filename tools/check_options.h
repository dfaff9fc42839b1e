/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * check_options: the command line of zcfs-check, and its exit status.
 */
#ifndef ZCFS_CHECK_OPTIONS_H
#define ZCFS_CHECK_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

/* As fsck's; of several images the sum of what applies. */
enum check_exit {
	CHECK_CLEAN = 0,
	CHECK_CORRECTED = 1,	/* errors were found and corrected */
	CHECK_UNCORRECTED = 4,	/* errors are left */
	CHECK_OPERATIONAL = 8,	/* something could not be looked at or not be repaired */
	CHECK_USAGE = 16,
	CHECK_CANCELLED = 32,
};

struct check_options {
	bool repair;
	bool json;
	bool quiet;
	bool verbose;
	char **paths; /* into argv */
	size_t path_count;
};

/* 0: go on; otherwise *exit_code says how to end: --help and --version have been printed, or the usage error has. */
int check_options_parse(int argc, char **argv, struct check_options *options, int *exit_code);

#endif

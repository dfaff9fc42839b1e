/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * options: the command line of zcfs.
 */
#ifndef ZCFS_OPTIONS_H
#define ZCFS_OPTIONS_H

#include <stdbool.h>

#include "fs/fuse_api.h"
#include "fs/store.h"

enum rings { RINGS_AUTO, RINGS_YES, RINGS_NO }; /* FUSE over io_uring */

enum passing { PASSING_AUTO, PASSING_ON, PASSING_OFF }; /* kernel passthrough */

struct options {
	char *store_path; /* as given */
	char *mount_path; /* as given; NULL: over the store */
	int foreground, debug, help, version, read_only;
	int allow_other, no_allow_other, fsname_given, no_clone_fd;
	unsigned int max_threads, max_idle_threads;
	int rings;                /* enum rings */
	int passing;              /* enum passing */
	int caching;              /* enum caching */
	unsigned int ring_depth;  /* requests in each processor's ring; 0: none given */
	struct fuse_args session; /* what is libfuse's to understand, program name first */
};

/* False: the command line makes no sense, and it was said why. */
bool options_parse(int argc, char **argv, struct options *options);
void options_free(struct options *options);

void options_print_help(void);

#endif

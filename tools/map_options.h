/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map_options: the command line of zcfs-map, and its exit codes.
 */
#ifndef ZCFS_MAP_OPTIONS_H
#define ZCFS_MAP_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum map_exit {
	MAP_DONE = 0,
	MAP_FAILED = 1,
	MAP_USAGE = 2,
	MAP_DAMAGED = 5, /* the image map */
};

/* An offset that is asked for. */
struct map_question {
	bool host;    /* of the data file; else of the guest's disk */
	uint64_t off; /* bytes */
};

struct map_options {
	const char *image;
	bool summary, json;
	struct map_question *questions; /* malloc'ed; map_options_free */
	size_t question_count;
};

/* True: go on. False: *exit_code says what was wrong, or that nothing more is to be done. */
bool map_options_parse(int argc, char **argv, struct map_options *options, int *exit_code);
void map_options_free(struct map_options *options);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * check_print: what zcfs-check found out about one image or one directory, as text and as JSON.
 */
#ifndef ZCFS_CHECK_PRINT_H
#define ZCFS_CHECK_PRINT_H

#include <jansson.h>
#include <stdbool.h>

#include "mapdb/check.h"
#include "tools/check_options.h"

struct check_result {
	const char *path; /* as a user would give it */
	bool named;	  /* on the command line, not found in a directory */
	bool directory;	  /* the report is about what lies beside the images of a directory */
	bool checked;	  /* the report below is complete */
	int exit_code;	  /* of this one */
	char cause[256];  /* why it was not checked or not repaired; empty: it was */
	char remedy[256]; /* may be empty */
	struct check_report report;
};

struct check_totals {
	unsigned int bundles, plain, errors, repaired;
	unsigned int unchecked; /* images and directories that could not be looked into */
};

void check_print(const struct check_result *result, const struct check_options *options);
void check_print_totals(const char *directory, const struct check_totals *totals);
json_t *check_json(const struct check_result *result); /* a new reference; NULL: no memory */

#endif

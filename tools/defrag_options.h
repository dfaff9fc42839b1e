/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * defrag_options: the command line of zcfs-defrag.
 */
#ifndef ZCFS_DEFRAG_OPTIONS_H
#define ZCFS_DEFRAG_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "defrag/guest_pass.h"
#include "mapdb/name_list.h"
#include "mapdb/plain.h"

enum defrag_mode { MODE_DEFRAG, MODE_DRY_RUN, MODE_ANALYZE, MODE_UNDO, MODE_PLAIN, MODE_SETTLE, MODE_DISCARD };

/* What only --discard knows. */
struct discard_settings {
	bool forget_undo; /* also if undo is possible, and is not afterwards */
	bool dry_run;
};

/* What only --settle knows. */
struct settle_settings {
	uint64_t threshold;   /* bytes; 0: the default */
	uint64_t rate;	      /* bytes a second; 0: none */
	bool idle;
};

struct defrag_options {
	enum defrag_mode mode;
	enum plain_method plain; /* MODE_PLAIN: how */
	bool pack;
	enum pack_order order; /* with pack */
	bool descending;
	bool verify_data; /* the ends of every moved stream, not only of a few hundred */
	bool quiet;
	bool verbose;
	bool json;
	bool picture;             /* on standard output */
	const char *picture_file; /* .png or .svg; NULL: none */
	const char *report_file;  /* .html; NULL: none */
	const char *csv; /* file for the list of fragmented files, into argv; NULL: none */
	bool wait;
	double wait_seconds; /* 0: for as long as it takes */
	bool shutdown;       /* a domain that has the image is asked to power off; implies wait */
	double limit_seconds; /* for everything together; 0: none */
	unsigned int volume; /* 0: all */
	struct selection selection;
	char **files; /* into argv: what selection.files are of */
	size_t file_count;
	struct settle_settings settle;
	struct discard_settings discard;
	struct name_list saved; /* directories with saved domains */
	char text[512];         /* what of this belongs in the history of runs */
	bool all;               /* the names are of directories, whose images are meant */
	unsigned int jobs;      /* images at a time, with all */
	char **images;          /* into argv */
	size_t image_count;
};

/* 0: go on; otherwise *exit_code says how to end: --help and --version have been printed, or the usage error has.
 * defrag_options_release() is due in either case. */
int defrag_options_parse(int argc, char **argv, struct defrag_options *options, int *exit_code);

void defrag_options_release(struct defrag_options *options);

const char *plain_method_name(enum plain_method method);
/* Whether it puts something else where the guest may remember its metadata, or what it has not written yet, or an overlay expects
 * what was there; a dry run would. */
bool defrag_changes_view(enum defrag_mode mode);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * outcome: what became of one image, and how it is told: as text, as JSON, as an exit status.
 */
#ifndef ZCFS_OUTCOME_H
#define ZCFS_OUTCOME_H

#include <jansson.h>
#include <stdbool.h>

#include "defrag/guest_pass.h"
#include "mapdb/image_discard.h"
#include "tools/defrag_options.h"
#include "tools/file_list.h"
#include "tools/history.h"
#include "tools/overlays.h"
#include "tools/saved_domains.h"
#include "tools/settle.h"
#include "tools/users.h"

enum exit_code {
	EXIT_DONE = 0,    /* done, or nothing to do */
	EXIT_FAILED = 1,  /* failed; nothing changed */
	EXIT_USAGE = 2,   /* wrong usage; nothing tried */
	EXIT_REFUSED = 3, /* a volume's state forbids a change */
	EXIT_IN_USE = 4,
	EXIT_DAMAGED = 5, /* the image map or a volume */
};

struct outcome {
	char *image; /* as given, printable */
	int exit_code;
	char cause[REPORT_TEXT_MAX];  /* why nothing came of it: one line; empty if the report says it all */
	char remedy[REPORT_TEXT_MAX]; /* one line, may be empty */
	bool in_use;                  /* analyzed while somebody used it */
	struct image_user user;       /* of an image that is in use, if he can be seen */
	bool unleased;                /* the store's file system has no leases: only flock protected it */
	bool reported;                /* the report below is filled in */
	bool was_plain;               /* when it was opened: nothing to do for --plain */
	bool unserved;                /* it has become a bundle, and no mount that we can see serves it */
	struct plain_report plain;    /* --plain: what was done */
	bool undone;                  /* of the report below only redo_pending is filled in */
	double seconds;
	struct pass_report report;
	struct file_list files; /* fragmented ones, as many as options say */
	bool settled;           /* the report below is filled in */
	struct settle_report settle;
	bool discarded; /* the report below is filled in */
	struct discard_report discard;
	struct history history; /* for a report */
};

/* The graver of two exit codes, in the order 5 1 3 4 0. */
int graver_exit_code(int a, int b);
/* The exit code that a report stands for. */
int exit_code_of_report(const struct pass_report *report);

/* Where something went wrong. */
enum step { STEP_LOCATE, STEP_OPEN, STEP_PASS, STEP_UNDO, STEP_PLAIN, STEP_SETTLE, STEP_DISCARD };
/* Fills in cause, remedy (unless there is one already) and exit code for a negative errno. */
void outcome_explain(struct outcome *outcome, enum step step, int error);
/* The same for an image in use whose user is known. asked: to shut down. */
void outcome_explain_user(struct outcome *outcome, bool asked);

/* The same for a saved domain that has the image. */
void outcome_explain_saved(struct outcome *outcome, const struct saved_domain *saved);

/* The same for an overlay that has the image as its backing file. */
void outcome_explain_overlay(struct outcome *outcome, const struct overlay *overlay);

/* The same where --discard would make --undo impossible. */
void outcome_explain_undo(struct outcome *outcome);

/* What came of a pass, in a word. */
enum gist {
	GIST_NO_VOLUME, /* of NTFS */
	GIST_NOTHING,   /* to do */
	GIST_CHANGED,   /* or would be, or is fragmented */
	GIST_PROBLEM,   /* the exit code tells */
};
enum gist outcome_gist(const struct outcome *outcome, enum defrag_mode mode);

/* Whether it was counted: also a volume that must not be changed can be analyzed. */
bool outcome_has_figures(const struct volume_report *volume, enum defrag_mode mode);

/* Figures to standard output (unless quiet), what went wrong to standard error. */
void outcome_print(const struct outcome *outcome, const struct defrag_options *options);
/* One line instead of the figures, none for an image without NTFS; and what went wrong. */
void outcome_print_line(const struct outcome *outcome, const struct defrag_options *options);
/* Only what went wrong. */
void outcome_print_problems(const struct outcome *outcome);
/* A new reference; NULL: no memory. */
json_t *outcome_json(const struct outcome *outcome, const struct defrag_options *options);

void outcome_release(struct outcome *outcome);

#endif

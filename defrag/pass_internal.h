/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * pass_internal: the parent's side of a guest pass under way, shared by the files that it is made of: guest_pass.c has
 * the child and the commit, pass_messages.c takes what the child says, pass_changes.c what it wants changed,
 * pass_free.c what it says is free.
 */
#ifndef ZCFS_PASS_INTERNAL_H
#define ZCFS_PASS_INTERNAL_H

#include <time.h>

#include "defrag/guest_pass.h"
#include "defrag/message.h"

#define WINDOW_SIZE (256u * 1024) /* bytes of the data file read at once for undo */

struct pass {
	struct image *image;
	const struct pass_options *options;
	struct pass_report *report;
	struct message_reader *reader;
	int scratch_fd; /* the child's file in memory */
	bool begun;     /* the image's change was begun: roll back unless committed */
	bool ended;     /* the child has sent everything */
	struct timespec started;
	int64_t started_unix_s;
	struct map_move *moves;
	size_t move_count, move_capacity;
	uint64_t bytes_moved;          /* by them */
	struct host_index *host_index; /* of the map before the pass */
	uint8_t *window;               /* of the data file, for undo */
	uint64_t window_off, window_length;
	struct redo_blob redo, undo;
	uint64_t attributes_moved;
	uint64_t fragmented_told;
	size_t free_capacity;
	uint64_t bytes_free; /* of the report's ranges */
	uint8_t *found;      /* of each of the selection's files: a volume has it */
};

/* Whatever comes of it, nothing is changed. */
static inline bool pass_only_looks(const struct pass *pass)
{
	return pass->options->analyze || pass->options->dry_run;
}

struct run_record run_record_of(const struct pass *pass);
/* Files that the selection names. */
size_t selected_files(const struct pass *pass);
/* -ECANCELED: the user wants to stop. */
int tell_progress(struct pass *pass, unsigned int volume, enum pass_phase phase, uint64_t done, uint64_t total);

/* pass_messages.c: checks a message of the child's and takes in what it says. -EBADMSG: that cannot be; -errno. */
int take_message(struct pass *pass, const struct message_header *header, const uint8_t *payload);

/* pass_changes.c: the image's change begins with the first thing that belongs into it. */
int pass_begin(struct pass *pass);
int take_moves(struct pass *pass, const uint8_t *payload, size_t size);
int take_redo(struct pass *pass, const uint8_t *payload, size_t size);
/* Hands on what is left in redo and undo. */
int flush_redo(struct pass *pass);

/* pass_free.c: takes in what nobody uses. -EBADMSG; -ENOMEM. */
int take_free(struct pass *pass, const uint8_t *payload, size_t size);
/* Sorts and checks all of it, once there is no more. -ECHILD: that cannot be. */
int check_free(struct pass *pass);

#endif

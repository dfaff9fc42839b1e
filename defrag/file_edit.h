/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * file_edit: one file's MFT records, held together in memory while its run lists, attribute list and extension records
 * change.
 *
 * Used for the files that have an attribute list, and for $MFT. Only what follows from the new run lists is changed: an
 * attribute that was spread over several records is drawn together into the first ones; emptied extension records are
 * freed; if everything fits into the base record, the attribute list goes too.
 */
#ifndef ZCFS_FILE_EDIT_H
#define ZCFS_FILE_EDIT_H

#include "defrag/attr_list.h"
#include "defrag/layout.h"
#include "defrag/scan.h"

struct edited_record {
	uint32_t number;
	bool freed;
	uint8_t *before; /* as on disk */
	uint8_t *after;  /* unprotected while being edited */
};

struct file_edit {
	const struct scan *scan;
	struct edited_record *records; /* records[0] is the base record */
	size_t count;
	bool has_list;
	struct attr_list list;     /* as it will be */
	struct run_list list_runs; /* of a non-resident list, before the pass; empty if resident */
	uint8_t *list_before;      /* its bytes before the pass, list_size_before of them */
	size_t list_size_before;
	bool list_dropped;
};

int file_edit_load(const struct scan *scan, uint32_t base, struct file_edit *edit);
void file_edit_free(struct file_edit *edit);

/* The attribute as it is being edited, and the record (unless NULL) that holds it. NULL if it is not there. */
ATTR_RECORD *file_edit_find(struct file_edit *edit, const struct attr *attr, uint8_t **holder);

/* Gives a stream (all its extents: scan.attrs[first, end)) the runs of its new place. */
int file_edit_move_stream(struct file_edit *edit, const struct layout *layout, size_t object, size_t first, size_t end);

/* Frees emptied records, drops the list or writes it anew, and protects all records. After this the records are final.
 */
int file_edit_finish(struct file_edit *edit);

#endif

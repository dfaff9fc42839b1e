/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/history.h"

#include <stdio.h>

static int keep(void *context, const struct run_record *run)
{
	struct history *history = context;
	struct history_row *row = &history->rows[history->count++];
	row->run = *run;
	snprintf(row->operation, sizeof(row->operation), "%s", run->operation);
	snprintf(row->options, sizeof(row->options), "%s", run->options);
	row->run.operation = row->operation;
	row->run.options = row->options;
	return 0;
}

int history_read(struct image *image, struct history *history)
{
	struct map_db *db = NULL;
	history->count = 0;
	if (image->bundle_fd < 0)
		return 0;
	int error = image->db ? 0 : image_db_open(image, 0, &db);
	if (!error)
		error = map_db_read_runs(image->db ? image->db : db, HISTORY_MAX, keep, history);
	map_db_close(db);
	return error;
}

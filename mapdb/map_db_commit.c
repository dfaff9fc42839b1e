/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map_db: COMMIT, and what became of it, should it fail.
 */
#include <errno.h>

#include "mapdb/cleanup.h"
#include "mapdb/map_db_internal.h"

/* After a COMMIT that failed: what does the database say, and will it say so after a crash, too? The directory's sync
 * is what makes the end of the journal durable. */
static int look_again(struct map_db **db, uint64_t generation)
{
	const struct io *io = (*db)->io;
	cleanup_fd int bundle_fd = steal_fd(&(*db)->bundle_fd);
	struct map_db *again = NULL;
	struct map_state state;

	map_db_close(*db);
	*db = NULL;
	int rc = map_db_open(io, bundle_fd, 0, &again);
	if (rc == 0)
		rc = map_db_read_state(again, &state);
	if (rc == 0)
		rc = io->fsync(io, bundle_fd);
	if (rc < 0) {
		map_db_close(again);
		return -EINPROGRESS;
	}
	*db = again;
	return state.generation == generation;
}

int db_commit_known(struct map_db **db, bool new_generation)
{
	struct map_state state;
	int rc = map_db_read_state(*db, &state);

	if (rc == 0) {
		rc = map_db_commit(*db);
		if (rc == 0)
			return 0;
		if (rc != -EBUSY) {
			int committed = look_again(db, state.generation);

			if (committed < 0)
				return committed;
			return committed && new_generation ? 0 : rc;
		}
	}
	map_db_rollback(*db);
	return rc;
}

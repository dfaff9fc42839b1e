/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * spare_sync: which syncs of the scenario's changes the disk may leave out without harm to anybody, and why they are
 * there all the same.
 */
#ifndef ZCFS_TESTS_SPARE_SYNC_H
#define ZCFS_TESTS_SPARE_SYNC_H

#include "io_record.h"

/* Why the sync that is operation index is there, of a change that ends before operation change_end; NULL: it must not
 * be missing. */
const char *spare_sync(const struct io_record *record, size_t index, size_t change_end);

#endif

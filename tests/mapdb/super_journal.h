/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * super_journal: the record by which a journal names a super-journal, as a forger puts it behind a hot journal.
 */
#ifndef ZCFS_TESTS_SUPER_JOURNAL_H
#define ZCFS_TESTS_SUPER_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

#define SUPER_JOURNAL_RECORD(length) ((length) + 20) /* bytes, for a name of that length */

/* Returns how many bytes it has put there. */
size_t super_journal_record(uint8_t *out, const char *name);

#endif

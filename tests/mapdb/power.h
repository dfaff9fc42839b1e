/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * power: what a loss of power may leave of recorded operations. This is the one place that says what is believed of host file systems;
 * it is as hostile as POSIX and the documented behaviour of ext4, XFS and btrfs, with any of their mount options, allow.
 *
 * Durable is only what was asked for:
 *   contents  A file's bytes, size and holes by an fsync or fdatasync of that file after the change. By nothing else.
 *   names     A link, rename, exchange, unlink, creation by an fsync of the directory of the name; of either directory if there are
 *             two. By nothing else: not by a sync of the file, nor by one of another directory. (ext4 and XFS would write their one journal up
 *             to there; btrfs would write this directory's part of its log.)
 *
 * Of the rest any part may be on the disk, in any order:
 *   writes    Each 4 KiB page of a write by itself. A page may be torn: any of its 512-byte sectors are the new ones. A sector may be torn:
 *             new up to some byte, old from there on. What a later write replaced in the page cache does not come back over it.
 *   sizes     A write beyond the end changes the size by itself: the size without the bytes shows zeros, or what the disk had there before
 *             (ext4 with data=writeback); the bytes without the size are not seen.
 *   holes     A punch goes page by page, like a write of zeros. Truncation and allocation are one thing each.
 *   names     Each operation is atomic, as it is in each of these journals: an exchange changes both names or none. In a crash only what fits the
 *             names that are there happens: if the creation of a name is lost, so is its exchange.
 * Not assumed: that names stay in order, that data goes before the size, that a rename brings the bytes of what is renamed.
 *
 * The states are far too many to look at all. Looked at are, after each operation, nothing and everything that is not synced, and each file and
 * directory alone, lost or kept; and before each sync (and at the end), where they are most, besides: each single change lost or
 * kept; all up to each, and all from each on; each torn; and random ones.
 */
#ifndef ZCFS_TESTS_POWER_H
#define ZCFS_TESTS_POWER_H

#include "io_record.h"

enum power_pending {
	POWER_LOST = 0,
	POWER_KEPT = 1,
};

/* What is on the disk after the first count operations, if all that is not synced is lost or kept. *disk is to be released. */
void power_disk(const struct io_record *record, size_t count, enum power_pending pending, struct disk *disk);

struct power_options {
	size_t from, to;     /* power fails after so many operations: from the first to the last of these */
	size_t forgotten;    /* index of a sync that the disk says it did, and did not; SIZE_MAX: none */
	bool brief;          /* nothing torn, and no single changes: for recordings of which there are many */
	unsigned int random; /* random choices at each sync */
	uint64_t seed;       /* for these */
};

/* Another state that may be found. Many come several times: tell by disk_hash(). False: no more of them. */
typedef bool power_visit(void *context, const struct disk *disk, size_t count);

/* False if visit has ended it. */
bool power_enumerate(const struct io_record *record, const struct power_options *options, power_visit *visit,
		     void *context);

#endif

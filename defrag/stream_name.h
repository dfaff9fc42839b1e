/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * stream_name: what people call a stream of a volume. Reads one to three MFT records for each: for what is shown, not
 * for every file of a volume.
 */
#ifndef ZCFS_STREAM_NAME_H
#define ZCFS_STREAM_NAME_H

#include "defrag/scan.h"

struct stream_name {
	char path[4096];     /* of the file, UTF-8: "\Users\x\big.vhd"; "MFT record 7" if it has no name */
	char stream[800];    /* what Windows appends: "", ":Zone.Identifier", ":$I30:$INDEX_ALLOCATION", "::$BITMAP" */
	uint64_t data_bytes; /* its length, as the guest sees it */
};

/* head: the first extent of the stream in scan.attrs. 0 or -errno. */
int stream_name_read(const struct scan *scan, const struct attr *head, struct stream_name *name);

#endif

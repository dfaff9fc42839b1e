/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * owner: whose a byte of the guest's disk is: the child's answer to the questions of guest_pass.h.
 */
#ifndef ZCFS_OWNER_H
#define ZCFS_OWNER_H

#include "defrag/guest_pass.h"
#include "defrag/scan.h"

#define OWNER_PATH_MAX   4096
#define OWNER_STREAM_MAX (255 * 3 + 1)

struct owner {
	enum owner_kind kind;
	uint64_t record, vcn;          /* OWNER_STREAM */
	uint32_t type;                 /* OWNER_STREAM: of the attribute */
	char path[OWNER_PATH_MAX];     /* OWNER_STREAM: UTF-8, may be empty */
	char stream[OWNER_STREAM_MAX]; /* OWNER_STREAM: the attribute's name, UTF-8, mostly empty */
};

/* off: bytes from the volume's start. Time in proportion to the volume's runs. 0 or -errno. */
int owner_find(const struct scan *scan, uint64_t off, struct owner *owner);

#endif

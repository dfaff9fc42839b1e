/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * owner: whose a byte of the guest's disk is: the child's answer to the questions of guest_pass.h.
 */
#ifndef ZCFS_OWNER_H
#define ZCFS_OWNER_H

#include "defrag/stream_name.h"

struct owner {
	enum owner_kind kind;
	/* OWNER_STREAM */
	uint64_t record, vcn;
	uint32_t type; /* of the attribute */
	struct stream_name name;
};

/* off: bytes from the volume's start. Time in proportion to the volume's runs. 0 or -errno. */
int owner_find(const struct scan *scan, uint64_t off, struct owner *owner);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * volume_look: an independent look at a volume in memory: whose is each cluster? It shares no code with defrag/, only
 * the decoders of the test tools (tests/ntfs/ntfs_format.h), and it is strict where a mistake would cost data.
 */
#ifndef ZCFS_TESTS_VOLUME_LOOK_H
#define ZCFS_TESTS_VOLUME_LOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A cluster's place in a file; all zeros: nobody's. */
struct cluster_owner {
	uint64_t stream; /* base record, type and name, hashed */
	uint64_t vcn;
	uint32_t base, type;
};

struct volume_look {
	uint32_t cluster_size;
	uint64_t clusters;
	struct cluster_owner *owners; /* of each cluster */
	const char *wrong;            /* NULL, or why this is no volume to be changed */
};

void volume_look(const uint8_t *image, size_t size, struct volume_look *look);
void volume_look_free(struct volume_look *look);

#endif

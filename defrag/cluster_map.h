/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * cluster_map: a volume as a row of cells, each with counts of what its clusters are used for: what a picture of the
 * volume is drawn from.
 *
 * Made from a scan, by the child of a guest pass; sent to its parent, who checks it before anyone draws it. Pure, any
 * thread.
 */
#ifndef ZCFS_CLUSTER_MAP_H
#define ZCFS_CLUSTER_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct scan; /* defrag/scan.h */

enum cluster_use {
	CLUSTER_FREE,
	CLUSTER_FILE,       /* of an attribute of a file that lies in one piece */
	CLUSTER_DIRECTORY,  /* the same of a directory */
	CLUSTER_METADATA,   /* the same of what NTFS keeps for itself ($MFT, $LogFile, $Bitmap, ...) */
	CLUSTER_FRAGMENTED, /* of an attribute, of whatever, that lies in several pieces */
	CLUSTER_FIXED,      /* may not be moved, or is marked in $Bitmap and nobody's */
	CLUSTER_USES
};

#define CLUSTER_MAP_CELLS_MAX 2048u

struct cluster_map {
	uint64_t clusters;                /* of the volume */
	uint32_t cells;                   /* the fewer of clusters and CLUSTER_MAP_CELLS_MAX */
	uint64_t (*counts)[CLUSTER_USES]; /* of each cell */
};

/* All of it free. -ENOMEM; -EINVAL: a volume has clusters. */
int cluster_map_new(uint64_t clusters, struct cluster_map **out);
void cluster_map_free(struct cluster_map *map); /* NULL is allowed */

/* Where the volume is by the scan. -ENOMEM. */
int cluster_map_of_scan(const struct scan *scan, struct cluster_map **out);

/* Bytes of the counts of all cells. */
size_t cluster_map_size(const struct cluster_map *map);
/* False if the counts of some cell are not those of as many clusters as it has. */
bool cluster_map_is_sane(const struct cluster_map *map);

#endif

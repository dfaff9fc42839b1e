/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/cluster_map.h"

#include <errno.h>
#include <stdlib.h>

#include "defrag/layout.h"
#include "defrag/scan.h"

void cluster_map_free(struct cluster_map *map)
{
	if (map)
		free(map->counts);
	free(map);
}

/* The first cluster of a cell; of one past the last: the number of clusters. */
static uint64_t first_cluster(const struct cluster_map *map, uint32_t cell)
{
	return (uint64_t)((unsigned __int128)cell * map->clusters / map->cells);
}

/* The cell that cluster lcn lies in. */
static uint32_t cell_of(const struct cluster_map *map, uint64_t lcn)
{
	return (uint32_t)((((unsigned __int128)lcn + 1) * map->cells - 1) / map->clusters);
}

size_t cluster_map_size(const struct cluster_map *map)
{
	return map->cells * sizeof(*map->counts);
}

int cluster_map_new(uint64_t clusters, struct cluster_map **out)
{
	if (!clusters)
		return -EINVAL;
	struct cluster_map *map = calloc(1, sizeof(*map));
	if (!map)
		return -ENOMEM;
	map->clusters = clusters;
	map->cells = clusters < CLUSTER_MAP_CELLS_MAX ? (uint32_t)clusters : CLUSTER_MAP_CELLS_MAX;
	map->counts = calloc(map->cells, sizeof(*map->counts));
	if (!map->counts) {
		cluster_map_free(map);
		return -ENOMEM;
	}
	for (uint32_t cell = 0; cell < map->cells; cell++)
		map->counts[cell][CLUSTER_FREE] = first_cluster(map, cell + 1) - first_cluster(map, cell);
	*out = map;
	return 0;
}

bool cluster_map_is_sane(const struct cluster_map *map)
{
	for (uint32_t cell = 0; cell < map->cells; cell++) {
		uint64_t left = first_cluster(map, cell + 1) - first_cluster(map, cell);
		for (int use = 0; use < CLUSTER_USES; use++) {
			if (map->counts[cell][use] > left)
				return false;
			left -= map->counts[cell][use];
		}
		if (left)
			return false;
	}
	return true;
}

/* What was free is used from now on. */
static void use_clusters(struct cluster_map *map, enum cluster_use use, uint64_t lcn, uint64_t length)
{
	while (length) {
		uint32_t cell = cell_of(map, lcn);
		uint64_t here = first_cluster(map, cell + 1) - lcn;
		if (here > length)
			here = length;
		map->counts[cell][CLUSTER_FREE] -= here;
		map->counts[cell][use] += here;
		lcn += here;
		length -= here;
	}
}

static enum cluster_use use_of(const struct scan *s, size_t first, size_t end)
{
	const struct attr *head = &s->attrs[first];
	if (layout_kind(s, head) == PLAN_PINNED)
		return CLUSTER_FIXED;
	if (scan_stream_pieces(s, first, end) > 1)
		return CLUSTER_FRAGMENTED;
	if (head->base < RESERVED_RECORDS && head->base != ROOT_RECORD)
		return CLUSTER_METADATA;
	return s->kind[head->base] & RECORD_DIRECTORY ? CLUSTER_DIRECTORY : CLUSTER_FILE;
}

int cluster_map_of_scan(const struct scan *s, struct cluster_map **out)
{
	struct cluster_map *map;
	int r = cluster_map_new(s->geometry.clusters, &map);
	if (r < 0)
		return r;
	for (size_t i = 0, end; i < s->attr_count; i = end) {
		end = scan_stream_end(s, i);
		enum cluster_use use = use_of(s, i, end);
		for (size_t k = i; k < end; k++) {
			const struct run *runs = s->runs.runs + s->attrs[k].first_run;
			for (uint32_t n = 0; n < s->attrs[k].run_count; n++)
				if (runs[n].lcn != RUN_HOLE)
					use_clusters(map, use, runs[n].lcn, runs[n].length);
		}
	}
	for (size_t i = 0; i < s->lost.count; i++)
		use_clusters(map, CLUSTER_FIXED, s->lost.runs[i].lcn, s->lost.runs[i].length);
	*out = map;
	return 0;
}

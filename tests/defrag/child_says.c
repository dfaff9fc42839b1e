/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/defrag/child_says.h"

#include <string.h>
#include <unistd.h>

#include "defrag/cluster_map.h"
#include "tests/mapdb/check.h"

struct message_writer child_writer;

void tell(enum message_type type, const void *payload, size_t size)
{
	message_send(&child_writer, type, payload, size, NULL, 0);
	message_flush(&child_writer);
}

void tell_raw(const void *bytes, size_t size)
{
	CHECK_IS(write(child_writer.fd, bytes, size), size);
}

struct volume_report volume(void)
{
	return (struct volume_report){.number = 1,
	                              .off = VOLUME_OFF,
	                              .length = VOLUME_END - VOLUME_OFF,
	                              .scheme = "mbr",
	                              .file_system = "ntfs",
	                              .cluster_size = 512};
}

void tell_volume(void)
{
	struct disk_message disk = {0};
	struct volume_report report = volume();
	tell(MESSAGE_DISK, &disk, sizeof(disk));
	tell(MESSAGE_VOLUME, &report, sizeof(report));
}

void tell_moves(uint64_t new_1, uint64_t old_1, uint64_t length_1, uint64_t new_2, uint64_t old_2, uint64_t length_2)
{
	struct map_move moves[] = {{new_1, old_1, length_1}, {new_2, old_2, length_2}};
	tell(MESSAGE_MOVES, moves, sizeof(moves));
}

void tell_exchange(void)
{
	tell_moves(VOLUME_OFF + 1024, VOLUME_OFF + 8192, 512, VOLUME_OFF + 8192, VOLUME_OFF + 1024, 512);
}

void tell_redo(uint64_t host_off, size_t length)
{
	static struct redo_blob blob;
	static const uint8_t bytes[1024] = "changed";
	blob.size = 0;
	CHECK_IS(redo_blob_put(&blob, host_off, bytes, 0, length), length);
	tell(MESSAGE_REDO, blob.data, blob.size);
}

void tell_entry(uint64_t host_off, uint32_t length, uint32_t fill)
{
	uint8_t blob[REDO_ENTRY_HEADER_SIZE];
	memcpy(blob, &host_off, 8);
	memcpy(blob + 8, &length, 4);
	memcpy(blob + 12, &fill, 4);
	tell(MESSAGE_REDO, blob, sizeof(blob));
}

/* A volume in which everything is free. */
void tell_cluster_map(void)
{
	struct cluster_map_message m = {.volume = 1, .clusters = CLUSTERS};
	struct cluster_map *map;
	CHECK_IS(cluster_map_new(CLUSTERS, &map), 0);
	message_send(&child_writer, MESSAGE_CLUSTER_MAP, &m, sizeof(m), map->counts, cluster_map_size(map));
	message_flush(&child_writer);
	cluster_map_free(map);
}

void tell_end(void)
{
	struct end_message end = {0};
	tell(MESSAGE_END, &end, sizeof(end));
}

void honest(void)
{
	tell_volume();
	tell_cluster_map();
	tell_exchange();
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}

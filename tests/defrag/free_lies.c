/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <string.h>

#include "tests/defrag/child_lies.h"
#include "tests/defrag/child_says.h"
#include "tests/mapdb/check.h"

#define FREE_CLUSTERS 24u

static void tell_free(uint64_t off_1, uint64_t length_1, uint64_t off_2, uint64_t length_2)
{
	struct guest_range ranges[] = {{off_1, length_1}, {off_2, length_2}};
	tell(MESSAGE_FREE, ranges, sizeof(ranges));
}

static void tell_volume_with_free(uint64_t clusters_free, uint32_t cluster_size)
{
	struct disk_message disk = {0};
	struct volume_report report = volume();
	report.clusters_free = clusters_free;
	report.cluster_size = cluster_size;
	tell(MESSAGE_DISK, &disk, sizeof(disk));
	tell(MESSAGE_VOLUME, &report, sizeof(report));
}

/* The order of messages does not matter: volumes are not always in that of their places. */
void honest_about_free(void)
{
	tell_volume_with_free(FREE_CLUSTERS, 512);
	tell_free(VOLUME_OFF + 16384, 16 * 512, VOLUME_OFF + 4096, 8 * 512);
	tell_end();
}

static void tell_false_free(void)
{
	const uint64_t off = VOLUME_OFF, end = VOLUME_END, ok = VOLUME_OFF + 65536;
	tell_volume_with_free(lie_variant == 10   ? FREE_CLUSTERS + 1
	                      : lie_variant == 11 ? UINT64_MAX / 512
	                                          : FREE_CLUSTERS,
	                      lie_variant == 12 ? 0 : 512);
	switch (lie_variant) {
	case 0: /* the boot sector */
		tell_free(off, 16 * 512, ok, 8 * 512);
		break;
	case 1: /* what is before the volume */
		tell_free(off - 512, 16 * 512, ok, 8 * 512);
		break;
	case 2: /* behind it */
		tell_free(ok, 8 * 512, end - 512, 16 * 512);
		break;
	case 3:
		tell_free(ok, 8 * 512, end, 16 * 512);
		break;
	case 4: /* out of the image */
		tell_free(ok, 8 * 512, IMAGE_SIZE, 16 * 512);
		break;
	case 5: /* around the end of all numbers */
		tell_free(ok, 8 * 512, UINT64_MAX - 511, 16 * 512);
		break;
	case 6: /* overlap */
		tell_free(ok, 16 * 512, ok + 15 * 512, 8 * 512);
		break;
	case 7: /* the same twice */
		tell_free(ok, 12 * 512, ok, 12 * 512);
		break;
	case 8: /* parts of clusters */
		tell_free(ok + 100, 16 * 512, ok + 65536, 8 * 512);
		break;
	case 9:
		tell_free(ok, 16 * 512 + 100, ok + 65536, 8 * 512 - 100);
		break;
	case 13: /* fewer than the volume has, and more */
		tell_free(ok, 8 * 512, ok + 65536, 8 * 512);
		break;
	case 14:
		tell_free(ok, 16 * 512, ok + 65536, 16 * 512);
		break;
	case 15: /* nothing, and twice as much again */
		tell_free(ok, 0, ok + 65536, FREE_CLUSTERS * 512);
		break;
	case 16:
		tell_free(ok, UINT64_MAX - 511, ok + 65536, (FREE_CLUSTERS + 1) * 512);
		break;
	case 17:
		tell(MESSAGE_FREE, "", 0);
		break;
	case 18:
		tell(MESSAGE_FREE, "too short", 9);
		break;
	default:
		tell_free(ok, 16 * 512, ok + 65536, 8 * 512);
	}
	tell_end();
}
#define FALSE_FREE 19u

/* A volume in the middle of what another one has free; it is said to be no NTFS, so nobody has looked at its bounds. */
static void free_in_two_volumes(void)
{
	struct volume_report other = volume();
	tell_volume_with_free(FREE_CLUSTERS, 512);
	other.number = 2;
	other.off = VOLUME_OFF + 65536 + (lie_variant ? 512 : 0);
	other.length = lie_variant ? 512 : UINT64_MAX;
	other.result = VOLUME_SKIPPED;
	tell(MESSAGE_VOLUME, &other, sizeof(other));
	tell_free(VOLUME_OFF + 65536, FREE_CLUSTERS / 2 * 512, VOLUME_OFF + 131072, FREE_CLUSTERS / 2 * 512);
	tell_end();
}

static void flood_of_free(void)
{
	tell_volume_with_free(FREE_CLUSTERS, 512);
	for (;;)
		tell_free(VOLUME_OFF + 65536, 512, VOLUME_OFF + 65536, 512);
}

/* Nobody asked for a change. */
static void change_while_looking(void)
{
	tell_volume_with_free(0, 512);
	if (lie_variant)
		tell_exchange();
	else
		tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}

const struct lie free_lies[] = {
        {"calls free what is not", tell_false_free, FALSE_FREE, -ECHILD},
        {"calls free what is in two volumes", free_in_two_volumes, 2, -ECHILD},
        {"calls clusters free for ever", flood_of_free, 1, -ECHILD},
        {"changes what it should look at", change_while_looking, 2, -ECHILD},
};

const size_t free_lie_count = sizeof(free_lies) / sizeof(*free_lies);

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * volumes: where the volumes in an image are. libblkid reads the partition tables: MBR with logical partitions, GPT.
 *
 * libblkid wants a descriptor, but the guest's bytes lie scattered in the data file: the few sectors that a partition
 * table can be in are copied into a sparse file in memory, which it reads.
 */
#ifndef ZCFS_VOLUMES_H
#define ZCFS_VOLUMES_H

#include <stddef.h>

#include "defrag/guest_pass.h"
#include "defrag/view.h"

/* disk is a view of the whole image, scratch_fd an empty file in memory (memfd_create). Fills report->volumes (number,
 * off, length, scheme; result VOLUME_DONE or why not) and, if the disk as a whole is not to be touched, report->result,
 * cause and remedy. 0 or -errno. */
int volumes_find(struct view *disk, int scratch_fd, struct pass_report *report);

#endif

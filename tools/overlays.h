/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * overlays: files in qcow2 or QED format that lie beside an image and have it as their backing file, as snapshots
 * outside of the image do (virsh snapshot-create-as --disk-only, qemu-img create -b). Their clusters are placed by the
 * layout that the image had when they were made. Their contents are not trusted. Changes nothing. One thread.
 */
#ifndef ZCFS_OVERLAYS_H
#define ZCFS_OVERLAYS_H

#include <limits.h>
#include <stdbool.h>

#include "tools/identity.h"

struct overlay {
	char name[NAME_MAX + 1]; /* in the directory */
	bool by_name;            /* what it names is not there now or cannot be read, but has the name of the image */
};

/* An overlay of the image, which is image_name in that directory, among the regular files in it. What cannot be read is
 * passed over, and so is what somebody has a lease on, because opening it would end his pass. wait: for such leases, as
 * long as a tool may take to see that a file has no volumes. Who has a lease himself must not, or two would wait for
 * each other. 1: found; 0: there is none, and found->name is empty; -errno: the directory cannot be read. */
int overlay_find(const struct identity *image, int directory_fd, const char *image_name, bool wait,
                 struct overlay *found);

#endif

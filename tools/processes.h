/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * processes: the process that has an image open, as /proc tells: nothing else knows it of one that holds no lock, or an
 * open-file-description lock as QEMU does. Sees what the caller may see: all of it as root. One thread.
 */
#ifndef ZCFS_PROCESSES_H
#define ZCFS_PROCESSES_H

#include "tools/users.h"

/* True: *user has been filled in. Neither ourselves nor the daemon that serves the image counts. */
bool process_find(const struct identity *image, struct image_user *user);

/* The name of the virtual machine in a QEMU's arguments ("-name guest=win7,debug-threads=on", "-name win7"), each of
 * which ends with a zero byte; "" if there is none. */
void process_guest_name(const char *arguments, size_t length, char *name, size_t size);

#endif

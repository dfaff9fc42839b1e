/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * xen_domains: which domain has an image for a disk, as xenstore tells, and asking it to power off. A domain that is
 * paused, has crashed or is being created has its disks as much as one that runs. One thread at a time.
 *
 * Source of the format: libxl's libxl_disk.c, xenstore-paths.pandoc of Xen.
 */
#ifndef ZCFS_XEN_DOMAINS_H
#define ZCFS_XEN_DOMAINS_H

#include "tools/users.h"

/* The path in a backend's "params": "aio:/srv/win7.img", or the path alone. A part of params; NULL: it names no file of
 * this host. */
const char *xen_params_path(const char *params);

/* A domain that has the image: *user is filled in. */
bool xen_domain_find(struct xen *xen, const struct identity *image, struct image_user *user);

/* Asks a running domain to power off, as "xl shutdown" does. 0; -EINVAL: it is not running, or this is domain 0;
 * -errno. */
int xen_domain_shut_down(struct xen *xen, unsigned int domain);

#endif

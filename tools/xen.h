/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * xen: the little that is asked of a Xen host: its xenstore, and the states of its domains.
 *
 * The libraries are loaded at run time (xen_library.c), so that one program starts with any release of Xen, and
 * without: only libxenstore's soname is stable, libxenctrl's changes with each. Built without Xen's headers there is
 * never a host (xen_absent.c). An interface and not plain functions, so that tests can stand in for the host. One
 * thread at a time. Nothing is printed.
 */
#ifndef ZCFS_XEN_H
#define ZCFS_XEN_H

#include <stdbool.h>

enum domain_state {
	DOMAIN_GONE,    /* there is none, or it is dying: it will not touch its disks again */
	DOMAIN_UNKNOWN, /* there is one; the library that knows more is not there */
	DOMAIN_RUNNING,
	DOMAIN_PAUSED,    /* also while it is being created */
	DOMAIN_SHUT_DOWN, /* has powered off and is kept */
	DOMAIN_SUSPENDED, /* being saved */
	DOMAIN_CRASHED,
};

struct xen {
	/* The value of a node, NUL-terminated, to be freed; NULL: there is none. Paths that do not begin with a slash
	 * are relative to /local/domain/N of the domain that we are in. */
	char *(*read)(struct xen *xen, const char *path);
	/* The names of a node's children, all in one block to be freed; NULL: there are none. */
	char **(*list)(struct xen *xen, const char *path, unsigned int *count);
	/* 0 or -errno. */
	int (*write)(struct xen *xen, const char *path, const char *value);
	enum domain_state (*domain_state)(struct xen *xen, unsigned int domain);
	/* Waits until a domain has ended or a backend has changed since the last call (the first call returns at once),
	 * a signal came or the time is over. 0; -errno if one cannot wait for such things. */
	int (*wait)(struct xen *xen, int timeout_ms);
	void (*close)(struct xen *xen);
};

/* 0; -ENOENT: this is no Xen host, or its libraries are not there; -EACCES, -ENOMEM. */
int xen_open(struct xen **out);

#endif

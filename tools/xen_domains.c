/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/xen_domains.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "mapdb/cleanup.h"

#define DOMAIN_LAST 0x7fefu /* what follows are special numbers, not domains (DOMID_FIRST_RESERVED) */

const char *xen_params_path(const char *params)
{
	if (params[0] != '/') {
		params = strchr(params, ':');
		params = params ? params + 1 : "";
	}
	return params[0] == '/' ? params : NULL;
}

static bool parse_domain(const char *text, unsigned int *domain)
{
	char rest;

	return strspn(text, "0123456789") == strlen(text) && strlen(text) <= 5 &&
	       sscanf(text, "%u%c", domain, &rest) == 1 && *domain <= DOMAIN_LAST;
}

/* One disk: PATH/params. */
static bool is_disk(struct xen *xen, const char *path, const char *disk, const struct identity *image)
{
	cleanup_free char *node = NULL;

	if (asprintf(&node, "%s/%s/params", path, disk) < 0)
		return false;
	cleanup_free char *params = xen->read(xen, node);
	const char *file = params ? xen_params_path(params) : NULL;
	return file && identity_is_path(image, file, NULL);
}

static bool has_disk(struct xen *xen, const char *path, const struct identity *image)
{
	unsigned int count = 0;
	cleanup_free char **disks = xen->list(xen, path, &count);

	for (unsigned int i = 0; disks && i < count; i++) {
		if (is_disk(xen, path, disks[i], image))
			return true;
	}
	return false;
}

static void describe(struct xen *xen, unsigned int domain, enum domain_state state, struct image_user *user)
{
	char path[64];

	snprintf(path, sizeof path, "/local/domain/%u/name", domain);
	cleanup_free char *name = xen->read(xen, path);
	*user = (struct image_user){.kind = USER_DOMAIN, .id = domain, .state = state};
	snprintf(user->name, sizeof user->name, "%s", name ? name : "");
}

/* Looks at ABOVE/DOMAIN/BELOW/DISK/params of every domain. */
static bool find_below(struct xen *xen, const char *above, const char *below, const struct identity *image,
                       struct image_user *user)
{
	unsigned int count = 0, domain;
	cleanup_free char **domains = xen->list(xen, above, &count);

	for (unsigned int i = 0; domains && i < count; i++) {
		cleanup_free char *path = NULL;

		if (!parse_domain(domains[i], &domain) || asprintf(&path, "%s/%s%s", above, domains[i], below) < 0)
			continue;
		if (!has_disk(xen, path, image))
			continue;
		enum domain_state state = xen->domain_state(xen, domain);
		if (state == DOMAIN_GONE)
			continue; /* left over */
		describe(xen, domain, state, user);
		return true;
	}
	return false;
}

/* What the backends of our own domain serve, and what the toolstack remembers of each domain. */
bool xen_domain_find(struct xen *xen, const struct identity *image, struct image_user *user)
{
	return find_below(xen, "backend/qdisk", "", image, user) || find_below(xen, "backend/vbd", "", image, user) ||
	       find_below(xen, "/libxl", "/device/vbd", image, user);
}

int xen_domain_shut_down(struct xen *xen, unsigned int domain)
{
	enum domain_state state = domain == 0 ? DOMAIN_GONE : xen->domain_state(xen, domain);
	char path[64];

	if (state != DOMAIN_RUNNING && state != DOMAIN_UNKNOWN)
		return -EINVAL;
	snprintf(path, sizeof path, "/local/domain/%u/control/shutdown", domain);
	return xen->write(xen, path, "poweroff");
}

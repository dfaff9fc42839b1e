/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/users.h"

#include <errno.h>
#include <stdio.h>

#include "tools/loop_devices.h"
#include "tools/monotonic.h"
#include "tools/processes.h"
#include "tools/stop.h"
#include "tools/xen_domains.h"

#define STOP_LATENCY_MS 1000 /* a signal just before the wait begins is noticed so late */

static void cleanup_xen(struct xen **xen)
{
	if (*xen)
		(*xen)->close(*xen);
}

bool users_find_domain(const struct identity *image, struct image_user *user)
{
	__attribute__((cleanup(cleanup_xen))) struct xen *xen = NULL;

	return xen_open(&xen) == 0 && xen_domain_find(xen, image, user);
}

bool users_find(const struct identity *image, struct image_user *user)
{
	*user = (struct image_user){0};
	return users_find_domain(image, user) || loop_device_find(image, user) || process_find(image, user);
}

const char *user_kind_name(enum user_kind kind)
{
	static const char *const names[] = {"none", "domain", "loop device", "process"};
	return names[kind];
}

const char *domain_state_name(enum domain_state state)
{
	static const char *const names[] = {
	        [DOMAIN_GONE] = "gone",       [DOMAIN_UNKNOWN] = "state unknown", [DOMAIN_RUNNING] = "running",
	        [DOMAIN_PAUSED] = "paused",   [DOMAIN_SHUT_DOWN] = "shut down",   [DOMAIN_SUSPENDED] = "suspended",
	        [DOMAIN_CRASHED] = "crashed",
	};
	return names[state];
}

void user_describe(const struct image_user *user, char *text, size_t size)
{
	switch (user->kind) {
	case USER_DOMAIN:
		snprintf(text, size, "domain %u \"%s\" (%s)", user->id, user->name, domain_state_name(user->state));
		break;
	case USER_LOOP_DEVICE:
		snprintf(text, size, "loop device /dev/loop%u", user->id);
		break;
	case USER_PROCESS:
		snprintf(text, size, "%s (process %u%s%s%s)", user->name, user->id, *user->guest ? ", guest \"" : "",
		         user->guest, *user->guest ? "\"" : "");
		break;
	default:
		snprintf(text, size, "another program");
	}
}

int users_ask_to_shut_down(const struct image_user *user)
{
	__attribute__((cleanup(cleanup_xen))) struct xen *xen = NULL;

	if (user->kind != USER_DOMAIN)
		return -EINVAL;
	int error = xen_open(&xen);
	return error ? error : xen_domain_shut_down(xen, user->id);
}

bool users_wait_for_domain(const struct identity *image, double seconds)
{
	__attribute__((cleanup(cleanup_xen))) struct xen *xen = NULL;
	struct image_user user;
	double deadline = monotonic_seconds() + seconds;

	if (xen_open(&xen) < 0 || !xen_domain_find(xen, image, &user))
		return false;
	do {
		double left = deadline - monotonic_seconds();

		if (stop_requested() || (seconds > 0 && left <= 0))
			return true;
		bool short_wait = seconds > 0 && left * 1000 < STOP_LATENCY_MS;
		if (xen->wait(xen, short_wait ? (int)(left * 1000) + 1 : STOP_LATENCY_MS) < 0)
			return false;
	} while (xen_domain_find(xen, image, &user));
	return true;
}

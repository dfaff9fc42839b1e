/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * users: who uses an image: a Xen domain, a loop device, a process. That it is in use the lock and the lease tell
 * (mapdb/image.h); this only names the user. A domain alone is more than a name: one that is being created has its
 * disks before anybody has opened them. Changes nothing but by users_ask_to_shut_down(). One thread.
 */
#ifndef ZCFS_USERS_H
#define ZCFS_USERS_H

#include <stdbool.h>
#include <stddef.h>

#include "tools/identity.h"
#include "tools/xen.h"

enum user_kind { USER_NONE, USER_DOMAIN, USER_LOOP_DEVICE, USER_PROCESS };

struct image_user {
	enum user_kind kind;
	unsigned int id;         /* of the domain, the loop device, the process */
	char name[64];           /* of the domain, the process; "" if it has none that can be seen */
	char guest[64];          /* USER_PROCESS: the virtual machine that it is, "" if it is none */
	enum domain_state state; /* USER_DOMAIN */
};

/* True: *user has been filled in. */
bool users_find(const struct identity *image, struct image_user *user);
/* The same for domains alone. */
bool users_find_domain(const struct identity *image, struct image_user *user);

/* 'domain 5 "win7" (running)', "loop device /dev/loop0", "qemu-system-x86 (process 1234)". */
void user_describe(const struct image_user *user, char *text, size_t size);
/* "process" and so on, for programs. */
const char *user_kind_name(enum user_kind kind);
const char *domain_state_name(enum domain_state state);

/* Asks a domain to power off, as xl does, if it is running; never more than that. 0; -EINVAL: the user is no domain
 * that can be asked; -errno. */
int users_ask_to_shut_down(const struct image_user *user);

/* Sleeps until no domain has the image any more, for so many seconds at most (0: no limit), or until the user wants to
 * stop. False: no domain has it, or it cannot be waited for. */
bool users_wait_for_domain(const struct identity *image, double seconds);

#endif

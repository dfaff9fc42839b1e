/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/privileges.h"

#include <cap-ng.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>

#include "fs/store.h"

/* The kernel has checked the caller's permissions; what he may do the daemon must be able to do for him. */
static const unsigned int kept[] = {
        CAP_DAC_OVERRIDE,             /* the caller's files and directories, whoever owns them */
        CAP_CHOWN,        CAP_FOWNER, /* mode, times and attributes of the caller's files */
        CAP_FSETID,                   /* set-group-ID bits that the kernel has allowed him */
        CAP_SETUID,                   /* new files are his: see fs/caller.h */
        CAP_SETGID,       CAP_MKNOD,  /* root's device nodes */
        CAP_SETFCAP,                  /* root's file capabilities */
        CAP_SYS_ADMIN,                /* passthrough, trusted attributes, and the unmount at the end */
};

static bool is_kept(unsigned int capability)
{
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
		if (kept[i] == capability)
			return true;
	}
	return false;
}

int privileges_reduce(void)
{
	const capng_type_t everywhere = CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_INHERITABLE | CAPNG_BOUNDING_SET;
	capng_select_t sets = CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT;

	if (!store.privileged)
		return 0;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	if (capng_get_caps_process() < 0)
		return -EPERM;
	/* In a container that lacks it the bounding set stays; without new privileges it gives nobody anything. */
	if (capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP))
		sets |= CAPNG_SELECT_BOUNDS;
	for (unsigned int capability = 0; capability <= CAP_LAST_CAP; capability++) {
		if (!is_kept(capability))
			capng_update(CAPNG_DROP, everywhere, capability);
		else
			capng_update(CAPNG_DROP, CAPNG_INHERITABLE, capability);
	}
	capng_clear(CAPNG_SELECT_AMBIENT);
	return capng_apply(sets) < 0 ? -EPERM : 0;
}

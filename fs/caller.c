/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/caller.h"

#include <errno.h>
#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/store.h"

#define CAPABILITY_BIT(capability) (1u << (capability))

/* Changing the file system user to another than 0 drops these from the effective set; all lie in its first word.
 * FSETID keeps a set-group-ID bit that the kernel has allowed to a member of a supplementary group. */
static int keep_overriding(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	const unsigned int wanted =
	        CAPABILITY_BIT(CAP_DAC_OVERRIDE) | CAPABILITY_BIT(CAP_DAC_READ_SEARCH) | CAPABILITY_BIT(CAP_FSETID);

	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	data[0].effective |= wanted & data[0].permitted;
	return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

int caller_become(fuse_req_t req)
{
	const struct fuse_ctx *context = fuse_req_ctx(req);

	if (!store.privileged)
		return 0;
	if (context->gid != 0) {
		setfsgid(context->gid);
		/* The call reports no failure: ask which group it is now. */
		if ((gid_t)setfsgid((gid_t)-1) != context->gid)
			return -EPERM;
	}
	if (context->uid == 0)
		return 0;
	setfsuid(context->uid);
	if ((uid_t)setfsuid((uid_t)-1) != context->uid)
		return -EPERM;
	return keep_overriding();
}

void caller_leave(void)
{
	if (!store.privileged)
		return;
	/* Back to 0 also brings the capabilities back. */
	setfsuid(0);
	setfsgid(0);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/caller.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/store.h"
#include "mapdb/cleanup.h"

#define CAPABILITY_BIT(capability) (1u << (capability))

/* Changing the file system user to another than 0 drops these from the effective set; all lie in its first word.
 * FSETID keeps a set-group-ID bit that the kernel has allowed to a member of a supplementary group. */
static int keep_overriding(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	const unsigned int wanted = CAPABILITY_BIT(CAP_DAC_OVERRIDE) | CAPABILITY_BIT(CAP_FSETID);

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

int caller_check_sticky(fuse_req_t req, int parent_fd, const struct stat *victim)
{
	uid_t uid = fuse_req_ctx(req)->uid;
	struct stat parent;

	/* Of a daemon that is not privileged the host knows who it is. */
	if (!store.privileged || uid == 0 || victim->st_uid == uid)
		return 0;
	if (fstat(parent_fd, &parent) < 0)
		return -errno;
	return (parent.st_mode & S_ISVTX) && parent.st_uid != uid ? -ESTALE : 0;
}

bool caller_in_group(fuse_req_t req, gid_t group)
{
	const struct fuse_ctx *context = fuse_req_ctx(req);
	cleanup_free gid_t *groups = NULL;
	int count = 0;

	if (context->uid == 0 || context->gid == group)
		return true;
	groups = calloc(NGROUPS_MAX, sizeof(*groups));
	if (groups)
		count = fuse_req_getgroups(req, NGROUPS_MAX, groups);
	for (int i = 0; i < count; i++)
		if (groups[i] == group)
			return true;
	return false;
}

#define SIGNAL_BIT(number) (UINT64_C(1) << ((number)-1))

/* The masks of proc_pid_status(5). */
struct signals {
	uint64_t thread_pending, process_pending, blocked, ignored, caught;
};

static bool read_signals(pid_t thread, struct signals *signals)
{
	char path[64], line[256];
	FILE *status;

	*signals = (struct signals){0};
	snprintf(path, sizeof(path), "/proc/%ld/status", (long)thread);
	status = fopen(path, "re");
	if (!status)
		return false;
	while (fgets(line, sizeof(line), status)) {
		(void)sscanf(line, "SigPnd: %" SCNx64, &signals->thread_pending);
		(void)sscanf(line, "ShdPnd: %" SCNx64, &signals->process_pending);
		(void)sscanf(line, "SigBlk: %" SCNx64, &signals->blocked);
		(void)sscanf(line, "SigIgn: %" SCNx64, &signals->ignored);
		(void)sscanf(line, "SigCgt: %" SCNx64, &signals->caught);
	}
	fclose(status);
	return true;
}

/* Or in a world that we do not see, which the kernel tells as 0: then nobody can be kept waiting. A /proc that hides
 * others' processes (hidepid) says nothing of that. */
static bool is_gone(pid_t thread)
{
	return thread == 0 || (kill(thread, 0) < 0 && errno == ESRCH);
}

/* With rings nobody is told of interrupts (see fs/negotiate.c), also if libfuse failed to start them: then only looking
 * at the caller helps. */
static bool may_be_interrupted(fuse_req_t req)
{
	return store.rings || fuse_req_interrupted(req);
}

bool caller_gives_up(fuse_req_t req)
{
	/* What does nothing, or only stops the process, unless it is caught. */
	const uint64_t harmless = SIGNAL_BIT(SIGCHLD) | SIGNAL_BIT(SIGCONT) | SIGNAL_BIT(SIGURG) |
	                          SIGNAL_BIT(SIGWINCH) | SIGNAL_BIT(SIGSTOP) | SIGNAL_BIT(SIGTSTP) |
	                          SIGNAL_BIT(SIGTTIN) | SIGNAL_BIT(SIGTTOU);
	pid_t caller = fuse_req_ctx(req)->pid;
	struct signals signals;
	uint64_t pending;

	if (!may_be_interrupted(req))
		return false;
	if (!read_signals(caller, &signals))
		return is_gone(caller) || fuse_req_interrupted(req);
	pending = (signals.thread_pending | signals.process_pending) & ~signals.blocked & ~signals.ignored;
	return pending & (signals.caught | ~harmless);
}

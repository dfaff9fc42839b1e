/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * sandbox: who puts up the two walls, and the first one: rights. The second is sandbox_calls.c.
 */
#include "defrag/sandbox.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mapdb/cleanup.h"

/* ---- Landlock ---- */

/* struct landlock_ruleset_attr of the kernel's linux/landlock.h, which may be older here than the kernel. */
struct ruleset {
	uint64_t file_rights;
	uint64_t network_rights;
	uint64_t scopes;
};

#define ASK_VERSION (1u << 0)

/* What each version of the interface has added to the rights that can be taken. */
static struct ruleset ruleset_of(long version)
{
	struct ruleset all = {.file_rights = (1u << 13) - 1};
	if (version >= 2)
		all.file_rights |= 1u << 13; /* moving between directories */
	if (version >= 3)
		all.file_rights |= 1u << 14; /* truncating */
	if (version >= 4)
		all.network_rights = 3; /* bind and connect, TCP */
	if (version >= 5)
		all.file_rights |= 1u << 15; /* ioctl on devices */
	if (version >= 6)
		all.scopes = 3; /* abstract sockets of others, signals to others */
	return all;
}

/* All rights that the kernel can take are taken, and no rule gives any back. What is open stays usable. */
static int take_file_system(void)
{
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, ASK_VERSION);
	if (version < 0) /* not built in, or not switched on */
		return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -errno;
	struct ruleset all = ruleset_of(version);
	cleanup_fd int fd = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof(all), 0);
	if (fd < 0)
		return -errno;
	return syscall(SYS_landlock_restrict_self, fd, 0) < 0 ? -errno : 0;
}

/* ---- capabilities ---- */

static int drop_capabilities(void)
{
	if (capng_get_caps_process() < 0)
		return -EPERM;
	/* Who may not empty the bounding set keeps it: without new privileges it gives nobody anything. */
	bool bounds_too = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP);
	capng_clear(CAPNG_SELECT_ALL);
	if (capng_apply(CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT | (bounds_too ? CAPNG_SELECT_BOUNDS : 0)) < 0)
		return -EPERM;
	return 0;
}

/* ---- limits ---- */

static int address_space(uint64_t *bytes)
{
	char text[64] = {0};
	unsigned long long pages;
	cleanup_fd int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (read(fd, text, sizeof(text) - 1) < 0)
		return -errno;
	if (sscanf(text, "%llu", &pages) != 1)
		return -EINVAL;
	*bytes = (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
	return 0;
}

/* Not above what there is already: nobody could go back there without capabilities. */
static int set_limit(__rlimit_resource_t resource, uint64_t value, uint64_t most)
{
	struct rlimit limit;
	if (getrlimit(resource, &limit) < 0)
		return -errno;
	if (limit.rlim_max > most)
		limit.rlim_max = most;
	limit.rlim_cur = limit.rlim_max > value ? value : limit.rlim_max;
	return setrlimit(resource, &limit) < 0 ? -errno : 0;
}

static int set_limits(const struct sandbox *sandbox, uint64_t used)
{
	uint64_t memory = used + sandbox->memory_bytes;
	int r = set_limit(RLIMIT_AS, memory, memory);
	if (r == 0) /* SIGXCPU at the one, SIGKILL for who does not listen at the other */
		r = set_limit(RLIMIT_CPU, sandbox->cpu_seconds, sandbox->cpu_seconds + 5);
	if (r == 0)
		r = set_limit(RLIMIT_CORE, 0, 0); /* a guest's bytes are not for a file that anyone may find */
	if (r == 0)
		r = set_limit(RLIMIT_NOFILE, 0, 0);
	return r;
}

/* The scratch file is as long as the image, although hardly anything is in it; the user's limit on the length of files
 * is not meant for it. To lift a hard one takes CAP_SYS_RESOURCE. */
static void allow_long_files(void)
{
	struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
	if (setrlimit(RLIMIT_FSIZE, &limit) == 0 || getrlimit(RLIMIT_FSIZE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_FSIZE, &limit);
}

/* If memory is short, this process is the one that the machine can do without. */
static void volunteer_for_oom(void)
{
	cleanup_fd int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0)
		(void)!write(fd, "1000", 4);
}

/* ---- descriptors ---- */

static int close_between(unsigned int first, unsigned int end)
{
	return first < end && close_range(first, end - 1, 0) < 0 ? -errno : 0;
}

static int close_others(const struct sandbox *sandbox)
{
	unsigned int keep[] = {(unsigned int)sandbox->read_fd, (unsigned int)sandbox->write_fd,
	                       (unsigned int)sandbox->scratch_fd};
	unsigned int first = 0;
	int r = 0;
	for (size_t done = 0; r == 0 && done < 3; done++) {
		size_t lowest = done;
		for (size_t i = done + 1; i < 3; i++)
			if (keep[i] < keep[lowest])
				lowest = i;
		unsigned int fd = keep[lowest];
		keep[lowest] = keep[done];
		r = close_between(first, fd);
		first = fd + 1;
	}
	return r == 0 ? close_between(first, ~0u) : r;
}

/* ---- both walls ---- */

/* What has to open something, or takes capabilities, goes first. */
int sandbox_drop_rights(const struct sandbox *sandbox)
{
	uint64_t used = 0;
	volunteer_for_oom();
	allow_long_files();
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return -errno;
	int r = address_space(&used);
	if (r == 0)
		r = drop_capabilities();
	if (r == 0)
		r = take_file_system();
	if (r == 0)
		r = set_limits(sandbox, used);
	return r == 0 ? close_others(sandbox) : r;
}

int sandbox_enter(const struct sandbox *sandbox)
{
	int r = sandbox_drop_rights(sandbox);
	return r == 0 ? sandbox_filter_calls(sandbox) : r;
}

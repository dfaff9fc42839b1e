/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/sandbox.h"

#include <errno.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>

/* Memory, time, the end; and what libblkid and libntfs-3g ask of a descriptor that they were given. */
static const int allowed[] = {
        SCMP_SYS(read),         SCMP_SYS(pread64),         SCMP_SYS(lseek),
        SCMP_SYS(close),        SCMP_SYS(fstat),           SCMP_SYS(newfstatat),
        SCMP_SYS(brk),          SCMP_SYS(munmap),          SCMP_SYS(mremap),
        SCMP_SYS(madvise),      SCMP_SYS(futex),           SCMP_SYS(clock_gettime),
        SCMP_SYS(gettimeofday), SCMP_SYS(getrandom),       SCMP_SYS(getrusage),
        SCMP_SYS(getpid),       SCMP_SYS(getuid),          SCMP_SYS(geteuid),
        SCMP_SYS(getgid),       SCMP_SYS(getegid),         SCMP_SYS(rt_sigreturn),
        SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),  SCMP_SYS(exit),
        SCMP_SYS(exit_group),   SCMP_SYS(restart_syscall), SCMP_SYS(sched_yield),
        SCMP_SYS(sysinfo),      SCMP_SYS(sigaltstack), /* as sanitizers do before exit */
};

static int add_rules(scmp_filter_ctx filter, int write_fd, int scratch_fd)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < sizeof(allowed) / sizeof(*allowed); i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(write), 1,
		                     SCMP_A0(SCMP_CMP_EQ, (unsigned)write_fd));
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(pwrite64), 1,
		                     SCMP_A0(SCMP_CMP_EQ, (unsigned)scratch_fd));
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ftruncate), 1,
		                     SCMP_A0(SCMP_CMP_EQ, (unsigned)scratch_fd));
	/* Memory may be mapped, but neither from files nor executable. */
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2,
		                     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
		                     SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, MAP_ANONYMOUS));
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
		                     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	return r;
}

int sandbox_enter(int write_fd, int scratch_fd)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	if (!filter)
		return -ENOMEM;
	int r = add_rules(filter, write_fd, scratch_fd);
	if (r == 0)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r;
}

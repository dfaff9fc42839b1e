/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * sandbox_calls: the second wall: which system calls are left, with which arguments.
 *
 * Only fstat() needs more than a rule: the C library may make it of newfstatat(fd, "", AT_EMPTY_PATH), and a filter
 * cannot see that the path is empty; allowed, it would tell about any file there is. So newfstatat is a trap, and the
 * signal's handler answers what is meant for a descriptor.
 */
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "defrag/sandbox.h"

/* Memory, time, the end; and what libblkid and libntfs-3g ask of a descriptor that they were given. The last is for
 * sanitizers, which call it before exit. */
static const int allowed[] = {
        SCMP_SYS(read),          SCMP_SYS(pread64),
        SCMP_SYS(lseek),         SCMP_SYS(close),
        SCMP_SYS(fstat),         SCMP_SYS(brk),
        SCMP_SYS(munmap),        SCMP_SYS(mremap),
        SCMP_SYS(madvise),       SCMP_SYS(futex),
        SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday),
        SCMP_SYS(getrandom),     SCMP_SYS(getrusage),
        SCMP_SYS(getpid),        SCMP_SYS(getuid),
        SCMP_SYS(geteuid),       SCMP_SYS(getgid),
        SCMP_SYS(getegid),       SCMP_SYS(rt_sigreturn),
        SCMP_SYS(rt_sigaction),  SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(exit),          SCMP_SYS(exit_group),
        SCMP_SYS(sched_yield),   SCMP_SYS(restart_syscall),
        SCMP_SYS(sysinfo),       SCMP_SYS(sigaltstack),
};

/* ---- fstat ---- */

/* The arguments of the trapped call, and where its result goes. */
#if defined(__x86_64__)
#define ARGUMENT(context, n) ((context)->uc_mcontext.gregs[(const int[]){REG_RDI, REG_RSI, REG_RDX, REG_R10}[n]])
#define RESULT(context)      ((context)->uc_mcontext.gregs[REG_RAX])
#elif defined(__aarch64__)
#define ARGUMENT(context, n) ((context)->uc_mcontext.regs[n])
#define RESULT(context)      ((context)->uc_mcontext.regs[0])
#endif

#ifdef ARGUMENT

static long fstat_only(const ucontext_t *context)
{
	const char *path = (const char *)ARGUMENT(context, 1);
	if (ARGUMENT(context, 3) != AT_EMPTY_PATH || *path)
		return -EPERM;
	return syscall(SYS_fstat, (int)ARGUMENT(context, 0), ARGUMENT(context, 2)) < 0 ? -errno : 0;
}

static void on_trap(int signal_number, siginfo_t *info, void *context)
{
	int saved = errno;
	RESULT((ucontext_t *)context) = fstat_only(context);
	errno = saved;
}

static int allow_fstat(scmp_filter_ctx filter)
{
	struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
	if (sigaction(SIGSYS, &action, NULL) < 0)
		return -errno;
	return seccomp_rule_add(filter, SCMP_ACT_TRAP, SCMP_SYS(newfstatat), 0);
}

#else /* the first wall stands: who is told about a file cannot open it */

static int allow_fstat(scmp_filter_ctx filter)
{
	return seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1, SCMP_A3(SCMP_CMP_EQ, AT_EMPTY_PATH));
}

#endif

/* ---- the filter ---- */

static int allow_writing(scmp_filter_ctx filter, const struct sandbox *sandbox)
{
	unsigned int scratch_fd = (unsigned int)sandbox->scratch_fd;
	int r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(write), 1,
	                         SCMP_A0(SCMP_CMP_EQ, (unsigned int)sandbox->write_fd));
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(pwrite64), 1, SCMP_A0(SCMP_CMP_EQ, scratch_fd));
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ftruncate), 1, SCMP_A0(SCMP_CMP_EQ, scratch_fd));
	return r;
}

/* Memory may be mapped, but neither from files nor executable, nor so that limits do not count it. */
static int allow_memory(scmp_filter_ctx filter)
{
	int r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
	                         SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS | MAP_TYPE, MAP_ANONYMOUS | MAP_PRIVATE));
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
		                     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	return r;
}

int sandbox_filter_calls(const struct sandbox *sandbox)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	if (!filter)
		return -ENOMEM;
	int r = 0;
	for (size_t i = 0; r == 0 && i < sizeof(allowed) / sizeof(*allowed); i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
	if (r == 0)
		r = allow_writing(filter, sandbox);
	if (r == 0)
		r = allow_memory(filter);
	if (r == 0)
		r = allow_fstat(filter);
	if (r == 0)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r;
}

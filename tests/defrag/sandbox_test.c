/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: in the sandbox a process can read its data file, use memory up to a limit, write to its pipe and to its
 * scratch file; it cannot open, look at, connect, change, signal, start or execute anything. Without the filter of
 * system calls, the rights that it lacks keep it from the same, where the kernel has Landlock.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "defrag/sandbox.h"
#include "tests/mapdb/check.h"

#define MEMORY_BYTES (UINT64_C(1) << 30)

static int data_fd, dir_fd, other_fd, pipe_fds[2], scratch_fd;
static const char *failed; /* what was possible and must not be, or the reverse */
static int failed_errno;

static void must_fail_with(const char *what, long result, int number)
{
	if (result >= 0 || errno != number) {
		failed = failed ? failed : what;
		failed_errno = result >= 0 ? 0 : errno;
	}
}

static void must_work(const char *what, bool worked)
{
	if (!worked) {
		failed = failed ? failed : what;
		failed_errno = errno;
	}
}

#define MUST_FAIL_WITH(number, call) must_fail_with(#call, (long)(call), number)
#define MUST_FAIL(call)              MUST_FAIL_WITH(EPERM, call)
#define MUST_WORK(call)              must_work(#call, (call))

/* ---- behind the filter ---- */

static void try_looking(void)
{
	struct stat status;
	struct statx more;
	MUST_FAIL(stat("/etc/passwd", &status));
	MUST_FAIL(lstat("/", &status));
	MUST_FAIL(fstatat(data_fd, "..", &status, AT_EMPTY_PATH));
	MUST_FAIL(fstatat(AT_FDCWD, "/etc/passwd", &status, AT_EMPTY_PATH));
	MUST_FAIL(syscall(SYS_newfstatat, data_fd, "", &status, AT_EMPTY_PATH | AT_NO_AUTOMOUNT));
	MUST_FAIL(statx(AT_FDCWD, "/etc/passwd", 0, STATX_BASIC_STATS, &more));
	MUST_FAIL(access("/etc/passwd", F_OK));
	MUST_FAIL(syscall(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", NULL, 0));
}

static void try_files(void)
{
	struct iovec vector = {.iov_base = (void *)"x", .iov_len = 1};
	MUST_FAIL(open("/etc/passwd", O_RDONLY));
	MUST_FAIL(openat(dir_fd, "data", O_RDONLY));
	MUST_FAIL(openat(AT_FDCWD, "/tmp", O_RDONLY | O_DIRECTORY));
	MUST_FAIL(syscall(SYS_openat2, dir_fd, "data", NULL, 0));
	MUST_FAIL(creat("zcfs-sandbox-test", 0600));
	MUST_FAIL(unlinkat(dir_fd, "data", 0));
	MUST_FAIL(renameat(dir_fd, "data", dir_fd, "other"));
	MUST_FAIL(linkat(dir_fd, "data", dir_fd, "other", 0));
	MUST_FAIL(mkdirat(dir_fd, "directory", 0700));
	MUST_FAIL(fchmod(data_fd, 0777));
	MUST_FAIL(fchown(data_fd, 0, 0));
	MUST_FAIL(futimens(data_fd, NULL));
	MUST_FAIL(fsync(data_fd));
	MUST_FAIL(write(data_fd, "x", 1));
	MUST_FAIL(pwrite(data_fd, "x", 1, 0));
	MUST_FAIL(writev(data_fd, &vector, 1));
	MUST_FAIL(pwritev(data_fd, &vector, 1, 0));
	MUST_FAIL(writev(pipe_fds[1], &vector, 1));
	MUST_FAIL(ftruncate(data_fd, 0));
	MUST_FAIL(fallocate(data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
	MUST_FAIL(write(other_fd, "x", 1));
	MUST_FAIL(write(STDERR_FILENO, "x", 1));
	MUST_FAIL(write(scratch_fd, "x", 1));
	MUST_FAIL(copy_file_range(scratch_fd, NULL, data_fd, NULL, 1, 0));
	MUST_FAIL(splice(pipe_fds[0], NULL, data_fd, NULL, 1, 0));
	MUST_FAIL(dup2(data_fd, pipe_fds[1]));
	MUST_FAIL(dup(data_fd));
	MUST_FAIL(fcntl(data_fd, F_DUPFD, 0));
	MUST_FAIL(fcntl(data_fd, F_SETLEASE, F_UNLCK));
	MUST_FAIL(ioctl(data_fd, FIONREAD, NULL));
	MUST_FAIL(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, data_fd, 0) == MAP_FAILED ? -1 : 0);
}

static void try_processes(void)
{
	char *arguments[] = {(char *)"/bin/true", NULL};
	const struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
	MUST_FAIL(fork());
	MUST_FAIL(syscall(SYS_vfork));
	MUST_FAIL(syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL));
	MUST_FAIL(syscall(SYS_clone3, NULL, 0));
	MUST_FAIL(execve("/bin/true", arguments, NULL));
	MUST_FAIL(syscall(SYS_execveat, data_fd, "", arguments, NULL, AT_EMPTY_PATH));
	MUST_FAIL(kill(getppid(), 0));
	MUST_FAIL(kill(0, 0));
	MUST_FAIL(syscall(SYS_tgkill, getppid(), getppid(), 0));
	MUST_FAIL(syscall(SYS_pidfd_open, getppid(), 0));
	MUST_FAIL(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
	MUST_FAIL(ptrace(PTRACE_ATTACH, getppid(), NULL, NULL));
	MUST_FAIL(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0));
	MUST_FAIL(syscall(SYS_process_vm_writev, getpid(), NULL, 0, NULL, 0, 0));
	MUST_FAIL(prctl(PR_SET_PDEATHSIG, 0));
	MUST_FAIL(setuid(0));
	MUST_FAIL(unshare(CLONE_NEWUSER));
	MUST_FAIL(chroot("/"));
	MUST_FAIL(chdir("/"));
	MUST_FAIL(syscall(SYS_io_uring_setup, 1, NULL));
	MUST_FAIL(syscall(SYS_seccomp, 0, 0, NULL));
	MUST_FAIL(syscall(SYS_bpf, 0, NULL, 0));
	MUST_FAIL(syscall(SYS_perf_event_open, NULL, 0, 0, 0, 0));
	MUST_FAIL(syscall(SYS_userfaultfd, 0));
	MUST_FAIL(syscall(SYS_mount, NULL, "/tmp", "tmpfs", 0, NULL));
	MUST_FAIL(syscall(SYS_keyctl, 0, 0, 0, 0, 0));
	MUST_FAIL(setrlimit(RLIMIT_AS, &limit));
	MUST_FAIL(prlimit(getppid(), RLIMIT_AS, &limit, NULL));
}

static void try_network(void)
{
	int pair[2];
	MUST_FAIL(socket(AF_INET, SOCK_STREAM, 0));
	MUST_FAIL(socket(AF_UNIX, SOCK_STREAM, 0));
	MUST_FAIL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	MUST_FAIL(send(pipe_fds[1], "x", 1, 0));
	MUST_FAIL(pipe(pair));
	MUST_FAIL(memfd_create("more", 0));
}

/* Memory that is both new and executable would be the start of everything else. */
static void try_memory(void)
{
	void *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST_WORK(memory != MAP_FAILED);
	MUST_FAIL(mprotect(memory, 4096, PROT_READ | PROT_EXEC));
	MUST_FAIL(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0);
	MUST_FAIL(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, data_fd, 0) == MAP_FAILED ? -1 : 0);
	MUST_FAIL(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0);
	MUST_FAIL_WITH(ENOMEM, mmap(NULL, MEMORY_BYTES + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	                            0) == MAP_FAILED
	                               ? -1
	                               : 0);
	MUST_WORK(mprotect(memory, 4096, PROT_READ) == 0);
	MUST_WORK(munmap(memory, 1 << 20) == 0);
	char *large = malloc(64 << 20);
	MUST_WORK(large != NULL);
	large = realloc(large, 128 << 20);
	MUST_WORK(large != NULL);
	free(large);
}

static void try_what_is_needed(void)
{
	char bytes[8];
	struct stat status;
	MUST_WORK(pread(data_fd, bytes, 5, 0) == 5 && !memcmp(bytes, "hello", 5));
	MUST_WORK(lseek(data_fd, 1, SEEK_SET) == 1 && read(data_fd, bytes, 4) == 4 && !memcmp(bytes, "ello", 4));
	MUST_WORK(fstat(data_fd, &status) == 0 && status.st_size == 5);
	MUST_WORK(ftruncate(scratch_fd, 10000) == 0);
	MUST_WORK(pwrite(scratch_fd, "there", 5, 5000) == 5);
	MUST_WORK(pread(scratch_fd, bytes, 5, 5000) == 5 && !memcmp(bytes, "there", 5));
	MUST_WORK(write(pipe_fds[1], "", 0) == 0);
}

/* What else the parent had open is gone, standard input and the directories of the store among it. */
static void try_descriptors(void)
{
	MUST_FAIL_WITH(EBADF, lseek(STDIN_FILENO, 0, SEEK_CUR));
	MUST_FAIL_WITH(EBADF, lseek(other_fd, 0, SEEK_CUR));
	MUST_FAIL_WITH(EBADF, lseek(dir_fd, 0, SEEK_CUR));
	MUST_FAIL_WITH(EBADF, lseek(pipe_fds[0], 0, SEEK_CUR));
}

static void behind_both(const struct sandbox *sandbox)
{
	MUST_WORK(sandbox_enter(sandbox) == 0);
	try_descriptors();
	try_looking();
	try_files();
	try_processes();
	try_network();
	try_memory();
	try_what_is_needed();
}

/* ---- without rights alone ---- */

static unsigned int landlock_version; /* 0: the kernel has none */

static void try_names(void)
{
	char *arguments[] = {(char *)"/bin/true", NULL};
	MUST_FAIL_WITH(EACCES, mkdir("directory", 0700));
	MUST_FAIL_WITH(EACCES, unlink("data"));
	MUST_FAIL_WITH(EACCES, rename("data", "other"));
	MUST_FAIL_WITH(EACCES, symlink("data", "link"));
	MUST_FAIL_WITH(EACCES, mknod("fifo", S_IFIFO | 0600, 0));
	MUST_FAIL_WITH(EACCES, execve("/bin/true", arguments, NULL));
	MUST_FAIL(ptrace(PTRACE_ATTACH, getppid(), NULL, NULL));
	if (landlock_version >= 3)
		MUST_FAIL_WITH(EACCES, truncate("data", 0));
	if (landlock_version >= 6)
		MUST_FAIL(kill(getppid(), 0));
}

static void without_rights(const struct sandbox *sandbox)
{
	MUST_WORK(sandbox_drop_rights(sandbox) == 0);
	MUST_WORK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	MUST_WORK(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
	try_descriptors();
	MUST_FAIL_WITH(EMFILE, open("/etc/passwd", O_RDONLY));
	MUST_FAIL_WITH(EMFILE, socket(AF_INET, SOCK_STREAM, 0));
	MUST_FAIL_WITH(EMFILE, dup(data_fd));
	MUST_FAIL(chroot("."));
	MUST_FAIL(unshare(CLONE_NEWNS));
	if (landlock_version > 0)
		try_names();
	try_what_is_needed();
}

/* ---- limits ---- */

static void spin(const struct sandbox *sandbox)
{
	MUST_WORK(sandbox_enter(sandbox) == 0);
	for (;;)
		sched_yield();
}

#if defined(__x86_64__)
/* The filter knows system calls by their numbers in one table: the others' doors are closed. */
static void call_as_i386(const struct sandbox *sandbox)
{
	long result = 20; /* getpid, which is harmless */
	MUST_WORK(sandbox_enter(sandbox) == 0);
	__asm__ volatile("int $0x80" : "+a"(result) : : "memory");
	failed = "a call by the table of another architecture";
}

static void call_as_x32(const struct sandbox *sandbox)
{
	MUST_WORK(sandbox_enter(sandbox) == 0);
	(void)syscall(0x40000000 | SYS_getpid);
	failed = "a call by the table of another architecture";
}
#endif

/* ---- */

/* Runs it in a process of its own and returns how that ended. It must have found everything in order, unless a signal
 * was what ended it. */
static int run(const char *name, void (*attempt)(const struct sandbox *sandbox), unsigned int cpu_seconds)
{
	char text[256] = "";
	int status;
	check_context("%s", name);
	CHECK(pipe(pipe_fds) == 0);
	pid_t pid = fork();
	if (pid == 0) {
		struct sandbox sandbox = {.read_fd = data_fd,
		                          .write_fd = pipe_fds[1],
		                          .scratch_fd = scratch_fd,
		                          .memory_bytes = MEMORY_BYTES,
		                          .cpu_seconds = cpu_seconds};
		attempt(&sandbox);
		int length = failed ? snprintf(text, sizeof(text), "%s: %s", failed, strerror(failed_errno))
		                    : snprintf(text, sizeof(text), "fine");
		_exit(write(pipe_fds[1], text, (size_t)length) == length ? 0 : 1);
	}
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
	close(pipe_fds[1]);
	CHECK(read(pipe_fds[0], text, sizeof(text) - 1) >= 0);
	close(pipe_fds[0]);
	if (!WIFSIGNALED(status) && strcmp(text, "fine"))
		fprintf(stderr, "%s: not as it must be: %s\n", name, text);
	CHECK(WIFSIGNALED(status) || (WEXITSTATUS(status) == 0 && !strcmp(text, "fine")));
	return status;
}

int main(void)
{
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, 1u);
	landlock_version = version < 0 ? 0 : (unsigned int)version;
	printf("Landlock: version %u\n", landlock_version);
	const struct rlimit no_core = {0, 0};
	setrlimit(RLIMIT_CORE, &no_core);
	dir_fd = scratch_directory();
	write_file(dir_fd, "data", "hello", 5);
	data_fd = openat(dir_fd, "data", O_RDWR);
	other_fd = openat(dir_fd, "other", O_RDWR | O_CREAT, 0600);
	scratch_fd = memfd_create("scratch", 0);
	CHECK(data_fd >= 0 && other_fd >= 0 && scratch_fd >= 0 && fchdir(dir_fd) == 0);

	CHECK(WIFEXITED(run("in the sandbox", behind_both, 60)));
	CHECK(WIFEXITED(run("without rights", without_rights, 60)));
	int status = run("that does not end", spin, 1);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU);
#if defined(__x86_64__)
	CHECK(WIFSIGNALED(run("with calls of i386", call_as_i386, 60)));
	CHECK(WIFSIGNALED(run("with calls of x32", call_as_x32, 60)));
#endif
	return 0;
}

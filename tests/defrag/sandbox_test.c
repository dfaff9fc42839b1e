/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: in the sandbox a process can read what it has open, use memory, write to its pipe and to its scratch file;
 * it cannot open, connect, change, signal, start or execute anything.
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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "defrag/sandbox.h"
#include "tests/mapdb/check.h"

static int data_fd, dir_fd, other_fd, pipe_fds[2], scratch_fd;
static const char *failed; /* what was possible and must not be, or the reverse */
static int failed_errno;

static void must_fail(const char *what, long result)
{
	if (result >= 0 || errno != EPERM) {
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

#define MUST_FAIL(call) must_fail(#call, (long)(call))
#define MUST_WORK(call) must_work(#call, (call))

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
	MUST_FAIL(fork());
	MUST_FAIL(syscall(SYS_vfork));
	MUST_FAIL(syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL));
	MUST_FAIL(syscall(SYS_clone3, NULL, 0));
	MUST_FAIL(execve("/bin/true", arguments, NULL));
	MUST_FAIL(syscall(SYS_execveat, data_fd, "", arguments, NULL, AT_EMPTY_PATH));
	MUST_FAIL(kill(getppid(), 0));
	MUST_FAIL(kill(0, 0));
	MUST_FAIL(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
	MUST_FAIL(syscall(SYS_process_vm_writev, getpid(), NULL, 0, NULL, 0, 0));
	MUST_FAIL(prctl(PR_SET_PDEATHSIG, 0));
	MUST_FAIL(setuid(0));
	MUST_FAIL(unshare(CLONE_NEWUSER));
	MUST_FAIL(chroot("/"));
	MUST_FAIL(chdir("/"));
	MUST_FAIL(syscall(SYS_io_uring_setup, 1, NULL));
	MUST_FAIL(syscall(SYS_seccomp, 0, 0, NULL));
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

static void in_the_sandbox(void)
{
	char text[256];
	MUST_WORK(sandbox_enter(pipe_fds[1], scratch_fd) == 0);
	try_files();
	try_processes();
	try_network();
	try_memory();
	try_what_is_needed();
	int length = failed ? snprintf(text, sizeof(text), "%s: %s", failed, strerror(failed_errno))
	                    : snprintf(text, sizeof(text), "fine");
	_exit(write(pipe_fds[1], text, (size_t)length) == length ? 0 : 1);
}

int main(void)
{
	char text[256] = "";
	int status;
	dir_fd = scratch_directory();
	write_file(dir_fd, "data", "hello", 5);
	data_fd = openat(dir_fd, "data", O_RDWR);
	other_fd = openat(dir_fd, "other", O_RDWR | O_CREAT, 0600);
	scratch_fd = memfd_create("scratch", 0);
	CHECK(data_fd >= 0 && other_fd >= 0 && scratch_fd >= 0 && pipe(pipe_fds) == 0);
	pid_t pid = fork();
	if (pid == 0)
		in_the_sandbox();
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
	CHECK(read(pipe_fds[0], text, sizeof(text) - 1) > 0);
	if (strcmp(text, "fine"))
		fprintf(stderr, "not as it must be: %s\n", text);
	CHECK(!strcmp(text, "fine"));
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	return 0;
}

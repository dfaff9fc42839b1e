/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/background.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include "fs/log.h"
#include "fs/mount_table.h"
#include "fs/store.h"

/* How long the first answer of a mount may take. */
#define FIRST_ANSWER_SECONDS 30

/* The end of the parent's pipe in the child; -1: nobody waits. */
static int ready_fd = -1;

/* For the child's standard descriptors: opened before it is too late to give up. */
static int null_fd = -1;

static void detach_from_terminal(void)
{
	dup2(null_fd, STDIN_FILENO);
	dup2(null_fd, STDOUT_FILENO);
	dup2(null_fd, STDERR_FILENO);
	close(null_fd); /* io_fill_standard_fds() has seen to it that it is none of these */
}

void background_ready(void)
{
	if (ready_fd < 0)
		return;
	log_to_syslog();
	if (write(ready_fd, "", 1) != 1)
		syslog(LOG_WARNING, "the process that started zcfs is gone");
	close(ready_fd);
	ready_fd = -1;
	detach_from_terminal();
}

/* The child, for the parent's handler of signals. */
static pid_t daemon_pid;

static void no_answer(int signal_number)
{
	static const char text[] = "zcfs: mounted, but the mount does not answer\n";

	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	kill(daemon_pid, SIGTERM);
	_exit(EXIT_FAILURE);
}

static bool mount_answers(const char *path)
{
	struct statfs status;

	return statfs(path, &status) == 0 && status.f_type == FUSE_SUPER_MAGIC;
}

/* The parent: the exit status for whoever started zcfs. If it is a failure there is no daemon, and no mount. */
static int wait_for_child(pid_t child, int pipe_fd, const char *mount_path)
{
	bool said_why;
	char byte;
	int status;
	ssize_t n;

	while ((n = read(pipe_fd, &byte, 1)) < 0 && errno == EINTR)
		;
	if (n == 1) {
		daemon_pid = child;
		signal(SIGALRM, no_answer);
		alarm(FIRST_ANSWER_SECONDS);
		if (mount_answers(mount_path))
			return EXIT_SUCCESS;
		fprintf(stderr, "zcfs: %s: mounted, but not answering: %s; see the system log\n", mount_path,
		        strerror(errno));
		kill(child, SIGTERM);
	}
	said_why = waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) != EXIT_SUCCESS;
	(void)mount_table_clear_dead(mount_path); /* if it has crashed */
	if (n == 1)
		return EXIT_FAILURE;
	if (said_why)
		return WEXITSTATUS(status);
	fprintf(stderr, "zcfs: %s: the daemon ended before the mount was ready\n", mount_path);
	return EXIT_FAILURE;
}

void background_start(const char *mount_path)
{
	int pipe_fds[2];
	pid_t child;

	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null_fd < 0 || pipe2(pipe_fds, O_CLOEXEC) < 0 || (child = fork()) < 0) {
		fprintf(stderr, "zcfs: cannot start in the background: %s\n", strerror(errno));
		exit(EXIT_FAILURE);
	}
	if (child > 0) {
		close(pipe_fds[1]);
		/* The lock is the child's. */
		close(store.dir_fd);
		exit(wait_for_child(child, pipe_fds[0], mount_path));
	}
	close(pipe_fds[0]);
	ready_fd = pipe_fds[1];
	setsid();
	(void)!chdir("/");
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * zcfs: the daemon. This file is its life: options, lock, mount, fork, serving, unmount.
 *
 * The process that was started forks; the child takes the store, mounts and serves; the parent waits until the mount
 * has answered it, so that whoever started zcfs can use the mount, or read on standard error why there is none. Threads
 * and databases exist only in the child.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include <dirent.h>
#include <linux/magic.h>

#include "fs/control.h"
#include "fs/log.h"
#include "fs/mount_table.h"
#include "fs/node.h"
#include "fs/operations.h"
#include "fs/options.h"
#include "fs/passthrough.h"
#include "fs/privileges.h"
#include "fs/serve.h"
#include "fs/store.h"
#include "fs/waiting.h"
#include "mapdb/cleanup.h"
#include "mapdb/image.h"

#define EXIT_USAGE 2

/* How long the first answer of a mount may take. */
#define FIRST_ANSWER_SECONDS 30

/* How long to wait for another daemon to let go of the store: 3 s. */
#define LOCK_PAUSE_MS 20
#define LOCK_ATTEMPTS 150

/* A map of more than 250,000 extents. */
#define LARGE_BLOCK (4 << 20)

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

struct store store = {.io = &io_posix, .dir_fd = -1};

/* ---- the store ---- */

static bool below(const char *directory, const char *path)
{
	size_t length = strlen(directory);

	return strncmp(directory, path, length) == 0 && (path[length] == '/' || strcmp(directory, "/") == 0) &&
	       strcmp(directory, path) != 0;
}

/* Paths without symbolic links, and no dead mounts on them. False: said why. */
static bool prepare_path(const char *given, char **absolute)
{
	int ret;

	*absolute = mount_table_absolute(given);
	if (!*absolute) {
		fprintf(stderr, "zcfs: %s: %s\n", given, strerror(errno));
		return false;
	}
	ret = mount_table_clear_dead(*absolute);
	if (ret < 0) {
		fprintf(stderr,
		        "zcfs: %s: a mount without a daemon is in the way and cannot be removed: %s; "
		        "try umount -l\n",
		        *absolute, strerror(-ret));
		return false;
	}
	return true;
}

static bool is_file(const char *path)
{
	struct stat status;

	return stat(path, &status) == 0 && !S_ISDIR(status.st_mode);
}

/* Its data, served as a file of its own, would be scrambled. */
static bool is_bundle(const char *path)
{
	cleanup_fd int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct stat status;

	return fd >= 0 && fstatat(fd, MAP_DB_NAME, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

static bool check_paths(const char *store_path, const char *mount_path)
{
	struct stat status;

	if (mount_table_inside_zcfs(store_path)) {
		fprintf(stderr, "zcfs: %s: is already served by zcfs; unmount it first\n", store_path);
		return false;
	}
	if (is_file(store_path) || is_bundle(store_path)) {
		fprintf(stderr, "zcfs: %s: is not a directory of images; serve the directory that it is in\n",
		        store_path);
		return false;
	}
	if (below(store_path, mount_path)) {
		fprintf(stderr,
		        "zcfs: %s: cannot mount inside the directory that is served; mount over it, or elsewhere\n",
		        mount_path);
		return false;
	}
	if (stat(mount_path, &status) < 0 || !S_ISDIR(status.st_mode)) {
		fprintf(stderr, "zcfs: %s: cannot mount there: %s\n", mount_path,
		        errno && !S_ISDIR(status.st_mode) ? strerror(ENOTDIR) : strerror(errno));
		return false;
	}
	return true;
}

/* A daemon whose mount has just been removed may need a moment to end. -1 with errno, as flock(). */
static int lock_store(int fd)
{
	for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
		if (errno != EWOULDBLOCK || i == LOCK_ATTEMPTS)
			return -1;
		nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_MS * 1000000L}, NULL);
	}
	return 0;
}

static bool open_store(const char *path)
{
	store.dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (store.dir_fd < 0) {
		fprintf(stderr, "zcfs: %s: cannot be opened: %s%s\n", path, strerror(errno),
		        errno == EACCES ? "; run as root, or as its owner" : "");
		return false;
	}
	if (lock_store(store.dir_fd) == 0)
		return true;
	if (errno == EWOULDBLOCK)
		fprintf(stderr,
		        "zcfs: %s: another zcfs serves this directory already; use its mount, or unmount that first\n",
		        path);
	else
		fprintf(stderr, "zcfs: %s: cannot be locked: %s\n", path, strerror(errno));
	return false;
}

/* Removes what crashes have left, in this directory and those below. Nobody uses the store yet. Takes dir_fd. */
static void clean_below(int dir_fd, dev_t dev)
{
	DIR *dir = fdopendir(dir_fd);
	unsigned int removed = 0, left = 0;
	struct dirent *entry;

	if (!dir) {
		close(dir_fd);
		return;
	}
	if (image_clean_stale(store.io, dir_fd, &removed, &left) == 0 && removed + left > 0)
		log_message(LOG_NOTICE, "left over from an interrupted change: removed %u, left alone %u", removed,
		            left);
	rewinddir(dir);
	while ((entry = readdir(dir))) {
		struct stat status;
		int fd;

		if ((entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN) || strcmp(entry->d_name, ".") == 0 ||
		    strcmp(entry->d_name, "..") == 0 || image_name_reserved(entry->d_name))
			continue;
		fd = store.io->open(store.io, dir_fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
		if (fd < 0)
			continue;
		if (fstat(fd, &status) < 0 || status.st_dev != dev || faccessat(fd, MAP_DB_NAME, F_OK, 0) == 0)
			close(fd);
		else
			clean_below(fd, dev);
	}
	closedir(dir);
}

static void clean_store(void)
{
	int fd = fcntl(store.dir_fd, F_DUPFD_CLOEXEC, 0);
	struct stat status;

	if (store.read_only || fd < 0)
		return;
	if (fstat(fd, &status) < 0) {
		close(fd);
		return;
	}
	/* Its own position: the duplicate shares the descriptor's. */
	close(fd);
	fd = store.io->open(store.io, store.dir_fd, ".", O_RDONLY | O_DIRECTORY, 0);
	if (fd >= 0)
		clean_below(fd, status.st_dev);
}

/* ---- the process ---- */

static void raise_limits(void)
{
	struct rlimit limit;

	/* A node is a descriptor. */
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		struct rlimit most = {.rlim_cur = 1 << 20, .rlim_max = 1 << 20};

		limit.rlim_cur = limit.rlim_max;
		if (limit.rlim_max >= most.rlim_max || setrlimit(RLIMIT_NOFILE, &most) < 0)
			setrlimit(RLIMIT_NOFILE, &limit);
	}
	/* The caller's limits on the size of files are enforced before a request gets here. */
	if (getrlimit(RLIMIT_FSIZE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		if (store.privileged)
			limit.rlim_cur = limit.rlim_max = RLIM_INFINITY;
		setrlimit(RLIMIT_FSIZE, &limit);
	}
	signal(SIGXFSZ, SIG_IGN);
	umask(0);
	/* Writing back a loop device on this mount must not wait for memory that only that write-back would free. Needs
	 * CAP_SYS_RESOURCE; without it everything works but for that case. Inherited by the threads. */
	(void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

/* What is as large as a map, and what is needed only while one is made, goes back to the system when it is freed. Left
 * to itself glibc learns from the first such block to keep the next ones: as much again as a map of a million extents.
 */
static void keep_no_large_blocks(void)
{
#ifdef M_MMAP_THRESHOLD
	mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK);
#endif
}

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

/* From here on the parent asks the mount itself whether it answers. */
static void tell_parent(void)
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

/* Returns in the child only. */
static void fork_daemon(const char *mount_path)
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

/* ---- serving ---- */

static int start_services(void)
{
	int ret = node_table_init(store.dir_fd);

	if (ret == 0)
		ret = control_init();
	if (ret == 0)
		ret = waiting_start();
	return ret;
}

/* libfuse has said what it does not understand, but not always that it has no memory. errno was 0 before. */
static int exit_code_of_libfuse(void)
{
	if (errno != ENOMEM)
		return EXIT_USAGE;
	fputs("zcfs: not enough memory to start\n", stderr);
	return EXIT_FAILURE;
}

static int mount_and_serve(struct options *options, const char *mount_path)
{
	struct fuse_session *session;
	int ret;

	if (!serve_choose_transport(options))
		return EXIT_FAILURE;
	errno = 0;
	session = fuse_session_new(&options->session, &operations, sizeof(operations), NULL);
	if (!session)
		return exit_code_of_libfuse();
	if (store.passthrough)
		passthrough_allow(session, options->passing == PASSING_ON);
	ret = serve_prepare(session, options);
	if (ret < 0) {
		fprintf(stderr, "zcfs: cannot handle signals: %s\n", strerror(-ret));
		return EXIT_FAILURE;
	}
	if (fuse_session_mount(session, mount_path) != 0) {
		fprintf(stderr, "zcfs: %s: cannot be mounted\n", mount_path);
		return EXIT_FAILURE;
	}
	ret = privileges_reduce();
	if (ret == 0)
		ret = start_services();
	if (ret == 0)
		ret = serve_start(session, options);
	if (ret < 0) {
		fprintf(stderr, "zcfs: cannot start: %s\n", strerror(-ret));
		serve_end(session);
		return EXIT_FAILURE;
	}
	tell_parent();
	return serve(session, options);
}

/* Adds what a mount should have unless it was asked for otherwise. */
static int complete_options(struct options *options, const char *store_path)
{
	bool other = options->allow_other || (store.privileged && !options->no_allow_other);
	char *fsname = NULL;
	int ret = fuse_opt_add_arg(&options->session, "-osubtype=zcfs");

	if (ret == 0 && !options->fsname_given) {
		/* A comma would end the option. */
		char *name = strchr(store_path, ',') ? NULL : (char *)(uintptr_t)store_path;

		if (asprintf(&fsname, "-ofsname=%s", name ? name : "zcfs") < 0)
			return -1;
		ret = fuse_opt_add_arg(&options->session, fsname);
		free(fsname);
	}
	if (ret == 0 && other && !options->allow_other)
		ret = fuse_opt_add_arg(&options->session, "-oallow_other");
	/* The daemon acts with its own rights, so the kernel must check those of others. */
	if (ret == 0 && (other || store.privileged))
		ret = fuse_opt_add_arg(&options->session, "-odefault_permissions");
	return ret;
}

static int run(struct options *options)
{
	cleanup_free char *store_path = NULL, *mount_path = NULL;
	const char *given_mount = options->mount_path ? options->mount_path : options->store_path;
	int ret;

	store.read_only = options->read_only;
	store.privileged = geteuid() == 0;
	store.passthrough = store.privileged && options->passing != PASSING_OFF;
	if (!prepare_path(options->store_path, &store_path) || !prepare_path(given_mount, &mount_path) ||
	    !check_paths(store_path, mount_path) || !open_store(store_path))
		return EXIT_FAILURE;
	if (complete_options(options, store_path) != 0) {
		fprintf(stderr, "zcfs: out of memory\n");
		return EXIT_FAILURE;
	}
	if (!options->foreground && !options->debug)
		fork_daemon(mount_path);
	raise_limits();
	keep_no_large_blocks();
	clean_store();
	ret = mount_and_serve(options, mount_path);
	/* libfuse leaves a mount to itself whose connection has been aborted by the administrator. */
	(void)mount_table_clear_dead(mount_path);
	return ret;
}

int main(int argc, char **argv)
{
	static const char usage[] = "usage: zcfs DIR [MOUNTPOINT] [-f] [-d] [-o OPTION,...]; zcfs --help tells more\n";
	struct options options;
	int ret = EXIT_SUCCESS;

	if (io_fill_standard_fds() < 0)
		return EXIT_FAILURE;
	errno = 0;
	if (!options_parse(argc, argv, &options)) {
		ret = exit_code_of_libfuse();
		if (ret == EXIT_USAGE)
			fputs(usage, stderr);
		options_free(&options);
		return ret;
	}
	if (options.help)
		options_print_help();
	else if (options.version)
		printf("zcfs %s\nlibfuse %s\n", ZCFS_VERSION, fuse_pkgversion());
	else
		ret = run(&options);
	options_free(&options);
	return ret;
}

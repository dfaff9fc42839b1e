/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * zcfs: the daemon. This file is its life: options, lock, fork, mount, serving, unmount. Threads and databases exist
 * only in the child (fs/background.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/background.h"
#include "fs/control.h"
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

/* A map of more than 250,000 extents. */
#define LARGE_BLOCK (4 << 20)

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

/* ---- where ---- */

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
	store.rings = options->ring_depth > 0;
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
	background_ready();
	return serve(session, options, mount_path);
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
	store.caching = (enum caching)options->caching;
	store.passthrough = store.privileged && options->passing != PASSING_OFF;
	if (!prepare_path(options->store_path, &store_path) || !prepare_path(given_mount, &mount_path) ||
	    !check_paths(store_path, mount_path) || !store_open(store_path))
		return EXIT_FAILURE;
	if (complete_options(options, store_path) != 0) {
		fprintf(stderr, "zcfs: out of memory\n");
		return EXIT_FAILURE;
	}
	if (!options->foreground && !options->debug)
		background_start(mount_path);
	raise_limits();
	keep_no_large_blocks();
	store_clean();
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
	signal(SIGCHLD, SIG_DFL); /* who ignores it, as whoever starts us may, is told nothing of his children */
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

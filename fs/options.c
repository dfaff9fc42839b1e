/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/options.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Enough for the queues of many guests; each is a stack that is mostly not there, and idle ones end. */
#define MAX_THREADS      64
#define MAX_IDLE_THREADS 16

/* What the kernel's io_uring takes in one ring, and then some. */
#define RING_DEPTH_LIMIT 4096

enum { KEY_IGNORE, KEY_REFUSE };

#define OPTION(template, member, value)                                                                                \
	{                                                                                                              \
		template, offsetof(struct options, member), value                                                      \
	}

static const struct fuse_opt option_table[] = {
        OPTION("-f", foreground, 1),
        OPTION("-d", debug, 1),
        OPTION("debug", debug, 1),
        OPTION("-h", help, 1),
        OPTION("--help", help, 1),
        OPTION("-V", version, 1),
        OPTION("--version", version, 1),
        OPTION("ro", read_only, 1),
        OPTION("-r", read_only, 1),
        OPTION("allow_other", allow_other, 1),
        OPTION("no_allow_other", no_allow_other, 1),
        OPTION("fsname=", fsname_given, 1),
        OPTION("no_clone_fd", no_clone_fd, 1),
        OPTION("io_uring", rings, RINGS_YES),
        OPTION("io_uring=auto", rings, RINGS_AUTO),
        OPTION("io_uring=yes", rings, RINGS_YES),
        OPTION("io_uring=no", rings, RINGS_NO),
        OPTION("io_uring_depth=%u", ring_depth, 0),
        OPTION("passthrough=auto", passing, PASSING_AUTO),
        OPTION("passthrough=on", passing, PASSING_ON),
        OPTION("passthrough=off", passing, PASSING_OFF),
        OPTION("cache=auto", caching, CACHING_AUTO),
        OPTION("cache=host", caching, CACHING_HOST),
        OPTION("cache=both", caching, CACHING_BOTH),
        OPTION("max_threads=%u", max_threads, 0),
        OPTION("max_idle_threads=%u", max_idle_threads, 0),
        FUSE_OPT_KEY("ro", FUSE_OPT_KEY_KEEP),
        FUSE_OPT_KEY("-r", FUSE_OPT_KEY_KEEP),
        FUSE_OPT_KEY("-d", FUSE_OPT_KEY_KEEP),
        FUSE_OPT_KEY("debug", FUSE_OPT_KEY_KEEP),
        FUSE_OPT_KEY("allow_other", FUSE_OPT_KEY_KEEP),
        FUSE_OPT_KEY("fsname=", FUSE_OPT_KEY_KEEP),
        /* What mount(8), systemd and desktops read in fstab, and pass on. */
        FUSE_OPT_KEY("comment=", KEY_IGNORE),
        FUSE_OPT_KEY("nofail", KEY_IGNORE),
        FUSE_OPT_KEY("fail", KEY_IGNORE),
        FUSE_OPT_KEY("_netdev", KEY_IGNORE),
        FUSE_OPT_KEY("auto", KEY_IGNORE),
        FUSE_OPT_KEY("noauto", KEY_IGNORE),
        FUSE_OPT_KEY("user", KEY_IGNORE),
        FUSE_OPT_KEY("user=", KEY_IGNORE),
        FUSE_OPT_KEY("nouser", KEY_IGNORE),
        FUSE_OPT_KEY("users", KEY_IGNORE),
        FUSE_OPT_KEY("owner", KEY_IGNORE),
        FUSE_OPT_KEY("group", KEY_IGNORE),
        FUSE_OPT_KEY("defaults", KEY_IGNORE),
        FUSE_OPT_KEY("relatime", KEY_IGNORE),
        FUSE_OPT_KEY("lazytime", KEY_IGNORE),
        FUSE_OPT_KEY("nolazytime", KEY_IGNORE),
        FUSE_OPT_KEY("strictatime", KEY_IGNORE),
        FUSE_OPT_KEY("atime", KEY_IGNORE),
        FUSE_OPT_KEY("diratime", KEY_IGNORE),
        FUSE_OPT_KEY("norelatime", KEY_IGNORE),
        FUSE_OPT_KEY("silent", KEY_IGNORE),
        FUSE_OPT_KEY("loud", KEY_IGNORE),
        FUSE_OPT_KEY("mand", KEY_IGNORE),
        FUSE_OPT_KEY("nomand", KEY_IGNORE),
        FUSE_OPT_KEY("iversion", KEY_IGNORE),
        FUSE_OPT_KEY("noiversion", KEY_IGNORE),
        FUSE_OPT_KEY("_rnetdev", KEY_IGNORE),
        FUSE_OPT_KEY("noowner", KEY_IGNORE),
        /* What older versions of FUSE wanted to hear. */
        FUSE_OPT_KEY("nonempty", KEY_IGNORE),
        FUSE_OPT_KEY("big_writes", KEY_IGNORE),
        FUSE_OPT_KEY("clone_fd", KEY_IGNORE),  /* on anyway */
        FUSE_OPT_KEY("max_read=", KEY_REFUSE), /* reads are as large as the kernel makes them */
        FUSE_OPT_END,
};

/* Options of applications, which are passed on from fstab too. The table can only match whole names. */
static bool is_application_option(const char *option)
{
	return strncmp(option, "x-", 2) == 0 || strncmp(option, "X-", 2) == 0;
}

/* The words that an option which is not in the table may be given, if it is one that takes words. */
static const char *words_of(const char *option)
{
	static const struct {
		const char *name, *words;
	} choices[] = {
	        {"io_uring=", "auto, yes or no"},
	        {"passthrough=", "auto, on or off"},
	        {"cache=", "auto, host or both"},
	};

	for (size_t i = 0; i < sizeof(choices) / sizeof(*choices); i++)
		if (strncmp(option, choices[i].name, strlen(choices[i].name)) == 0)
			return choices[i].words;
	return NULL;
}

static int process(void *data, const char *argument, int key, struct fuse_args *out)
{
	struct options *options = data;

	if (key == KEY_IGNORE)
		return 0;
	if (key == KEY_REFUSE) {
		fprintf(stderr, "zcfs: -o %s is not supported; leave it out\n", argument);
		return -1;
	}
	if (key == FUSE_OPT_KEY_OPT && words_of(argument)) {
		fprintf(stderr, "zcfs: -o %s: must be %s\n", argument, words_of(argument));
		return -1;
	}
	if (key == FUSE_OPT_KEY_OPT)
		return is_application_option(argument) ? 0 : 1;
	if (key != FUSE_OPT_KEY_NONOPT)
		return 1;
	if (!options->store_path) {
		options->store_path = strdup(argument);
		return options->store_path ? 0 : -1;
	}
	if (!options->mount_path) {
		options->mount_path = strdup(argument);
		return options->mount_path ? 0 : -1;
	}
	fprintf(stderr, "zcfs: %s: one argument too many\n", argument);
	return -1;
}

bool options_parse(int argc, char **argv, struct options *options)
{
	*options = (struct options){
	        .max_threads = MAX_THREADS,
	        .max_idle_threads = MAX_IDLE_THREADS,
	        .session = FUSE_ARGS_INIT(argc, argv),
	};
	if (fuse_opt_parse(&options->session, options, option_table, process) < 0)
		return false;
	if (options->help || options->version)
		return true;
	if (!options->store_path) {
		fprintf(stderr, "zcfs: no directory given\n");
		return false;
	}
	if (options->max_threads == 0) {
		fprintf(stderr, "zcfs: max_threads must be at least 1\n");
		return false;
	}
	if (options->ring_depth > RING_DEPTH_LIMIT) {
		fprintf(stderr, "zcfs: io_uring_depth must not be more than %d\n", RING_DEPTH_LIMIT);
		return false;
	}
	return true;
}

void options_free(struct options *options)
{
	free(options->store_path);
	free(options->mount_path);
	fuse_opt_free_args(&options->session);
}

void options_print_help(void)
{
	printf("Usage: zcfs DIR [MOUNTPOINT] [-f] [-d] [-r] [-o OPTION,...]\n"
	       "Serves the disk images in DIR as ordinary files, also those with an image map,\n"
	       "over DIR itself or at MOUNTPOINT. Unmount with umount or fusermount3 -u.\n"
	       "  -f                     stay in the foreground, messages to standard error\n"
	       "  -d, -o debug           foreground, and print every request\n"
	       "  -r, -o ro              change nothing in DIR\n"
	       "  -o allow_other         let other users in, as the files' permissions allow\n"
	       "                         (the default for root); or no_allow_other\n"
	       "  -o max_threads=N       requests served at a time (%d)\n"
	       "  -o max_idle_threads=N  threads kept while idle (%d)\n"
	       "  -o io_uring=auto       FUSE over io_uring if the kernel has it; or yes, no\n"
	       "  -o io_uring_depth=N    requests in each processor's ring\n"
	       "  -o passthrough=auto    the kernel serves plain images itself; or on, off\n"
	       "  -o cache=auto          who caches images: host, both, or as first opened\n"
	       "  -o no_clone_fd         one channel to the kernel for all threads\n"
	       "  -o fsname=NAME         what df and mount show (DIR)\n"
	       "  -h, --help; -V, --version\n"
	       "Examples:\n"
	       "  zcfs /srv/images                      over the directory itself\n"
	       "  zcfs /srv/images /mnt/images -o ro    elsewhere, read-only\n"
	       "Exit status: 0 mounted and answering, 1 not mounted, 2 usage.\n"
	       "See zcfs(8) for the rest, and for the line in /etc/fstab.\n",
	       MAX_THREADS, MAX_IDLE_THREADS);
}

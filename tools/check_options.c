/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/check_options.h"

#include <getopt.h>
#include <stdio.h>

static const char help_text[] = "Usage: zcfs-check [OPTION]... IMAGE|DIR...\n"
                                "Checks disk images of zcfs (map database, data file, leftovers), or all images\n"
                                "below a directory. Give paths in a zcfs mount or in the store below it. Changes\n"
                                "nothing, and also works on images in use, except with --repair.\n"
                                "\n"
                                "  -r, --repair   finish or remove what interrupted changes have left; the image\n"
                                "                 must not be in use. A damaged map is never guessed at\n"
                                "      --json     print one JSON document\n"
                                "  -v, --verbose  also print plain images and remarks\n"
                                "  -q, --quiet    print only what is wrong\n"
                                "  -h, --help     print this; --version prints the version\n"
                                "Examples:\n"
                                "  zcfs-check /srv/images                      check everything\n"
                                "  zcfs-check --repair /srv/images/win10.img   repair one image\n"
                                "Exit status: 0 nothing wrong; otherwise the sum of 1 errors corrected, 4 errors\n"
                                "left, 8 could not check or repair, 16 usage, 32 stopped.\n";

enum { OPTION_JSON = 256, OPTION_VERSION };

static const struct option long_options[] = {
        {"repair", no_argument, NULL, 'r'},
        {"json", no_argument, NULL, OPTION_JSON},
        {"verbose", no_argument, NULL, 'v'},
        {"quiet", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, OPTION_VERSION},
        {0},
};

static int wrong_usage(const char *what)
{
	fprintf(stderr, "%s%sTry 'zcfs-check --help'.\n", what ? "zcfs-check: " : "", what ? what : "");
	return CHECK_USAGE;
}

/* One option; 0 or the exit code. */
static int take_option(int option, struct check_options *options)
{
	switch (option) {
	case 'r':
		options->repair = true;
		return 0;
	case 'v':
		options->verbose = true;
		return 0;
	case 'q':
		options->quiet = true;
		return 0;
	case OPTION_JSON:
		options->json = true;
		return 0;
	default: /* getopt has said what is wrong */
		return wrong_usage(NULL);
	}
}

int check_options_parse(int argc, char **argv, struct check_options *options, int *exit_code)
{
	*options = (struct check_options){0};
	for (int option; (option = getopt_long(argc, argv, "rvqh", long_options, NULL)) != -1;) {
		if (option == 'h' || option == OPTION_VERSION) {
			fputs(option == 'h' ? help_text : "zcfs-check " ZCFS_VERSION "\n", stdout);
			*exit_code = CHECK_CLEAN;
			return 1;
		}
		*exit_code = take_option(option, options);
		if (*exit_code)
			return 1;
	}
	options->paths = argv + optind;
	options->path_count = (size_t)(argc - optind);
	*exit_code = 0;
	if (options->quiet && options->verbose)
		*exit_code = wrong_usage("--quiet and --verbose cannot be combined\n");
	else if (options->path_count == 0)
		*exit_code = wrong_usage("no image or directory given\n");
	return *exit_code != 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/check_options.h"

#include <getopt.h>
#include <stdio.h>

static const char help_text[] = "Usage: zcfs-check [OPTION]... IMAGE|DIR...\n"
                                "Checks disk images of zcfs: their map databases, data files and leftovers.\n"
                                "An image is a raw file or a bundle, in a zcfs mount or the directory below it;\n"
                                "of a directory all images are checked. Changes nothing, and works on images in\n"
                                "use, unless told to repair.\n"
                                "\n"
                                "  -r, --repair   finish or remove what interrupted changes have left: redo,\n"
                                "                 journals, unused space, stale names, an undo of no use; never\n"
                                "                 guesses at a damaged map. The image must not be in use\n"
                                "      --json     print one JSON document\n"
                                "  -v, --verbose  print plain images and remarks, too\n"
                                "  -q, --quiet    print only what is wrong\n"
                                "  -h, --help     print this; --version prints the version\n"
                                "Examples:\n"
                                "  zcfs-check /srv/images                      check everything\n"
                                "  zcfs-check --repair /srv/images/win10.img   repair one image\n"
                                "Exit status: the sum of 1 errors corrected, 4 errors left, 8 could not check or\n"
                                "repair, 16 usage, 32 stopped; 0 if nothing is wrong.\n";

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
		*exit_code = wrong_usage("--quiet and --verbose exclude each other\n");
	else if (options->path_count == 0)
		*exit_code = wrong_usage("which image or directory?\n");
	return *exit_code != 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/map_options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mapdb/image_map.h"

static const char help_text[] = "Usage: zcfs-map [OPTION]... IMAGE\n"
                                "Prints the image map: where the bytes of a guest's disk are on the host, one\n"
                                "extent a line. Changes nothing; the image may be in use.\n"
                                "\n"
                                "  -s, --summary      print sizes and the number and lengths of extents instead\n"
                                "  -g, --guest=OFF    print where this byte of the guest's disk is on the host,\n"
                                "                     and which file has it\n"
                                "  -H, --host=OFF     the same for an offset in the data file\n"
                                "      --json         print one JSON document\n"
                                "  -h, --help         print this; --version prints the version\n"
                                "Offsets are in bytes, decimal or 0x..., or with the suffix K, M, G, T, or s for\n"
                                "sectors of 512 bytes. -g and -H may be given several times.\n"
                                "Examples:\n"
                                "  zcfs-map --summary /srv/images/win10.img\n"
                                "  zcfs-map --guest=2048s --host=0x100000 /srv/images/win10.img\n"
                                "Exit status: 0 done, 1 failed, 2 usage, 5 the map is damaged.\n";

enum { OPTION_JSON = 256, OPTION_VERSION };

static const struct option long_options[] = {
        {"summary", no_argument, NULL, 's'},
        {"guest", required_argument, NULL, 'g'},
        {"host", required_argument, NULL, 'H'},
        {"json", no_argument, NULL, OPTION_JSON},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, OPTION_VERSION},
        {0},
};

/* Bytes of one unit; 0: there is no such unit. */
static uint64_t unit_bytes(const char *text)
{
	static const char units[] = "KMGT";
	const char *unit = *text ? strchr(units, *text) : NULL;

	if (!*text)
		return 1;
	if (text[1])
		return 0;
	return *text == 's' ? 512 : unit ? UINT64_C(1024) << 10 * (unit - units) : 0;
}

static bool parse_offset(const char *text, uint64_t *off)
{
	char *end;
	bool hexadecimal = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');

	errno = 0;
	unsigned long long value = strtoull(text, &end, hexadecimal ? 16 : 10);
	uint64_t unit = unit_bytes(end);
	return isdigit((unsigned char)*text) && errno == 0 && unit && !__builtin_mul_overflow(value, unit, off) &&
	       *off <= IMAGE_MAP_OFF_MAX;
}

static int wrong_usage(const char *what, const char *argument)
{
	if (what)
		fprintf(stderr, "zcfs-map: %s%s\n", what, argument);
	fputs("Try 'zcfs-map --help'.\n", stderr);
	return MAP_USAGE;
}

static int add_question(struct map_options *options, bool host)
{
	struct map_question question = {.host = host};
	struct map_question *grown;

	if (!parse_offset(optarg, &question.off))
		return wrong_usage("not an offset: ", optarg);
	grown = reallocarray(options->questions, options->question_count + 1, sizeof(*grown));
	if (!grown) {
		fputs("zcfs-map: not enough memory\n", stderr);
		return MAP_FAILED;
	}
	options->questions = grown;
	grown[options->question_count++] = question;
	return MAP_DONE;
}

static int take_option(int option, struct map_options *options)
{
	switch (option) {
	case 's':
		options->summary = true;
		return MAP_DONE;
	case OPTION_JSON:
		options->json = true;
		return MAP_DONE;
	case 'g':
	case 'H':
		return add_question(options, option == 'H');
	default: /* getopt has said what is wrong */
		return wrong_usage(NULL, "");
	}
}

static int take_image(int argc, char **argv, struct map_options *options)
{
	if (optind == argc)
		return wrong_usage("no image given", "");
	if (optind + 1 < argc)
		return wrong_usage("one image at a time, not also ", argv[optind + 1]);
	if (options->summary && options->question_count)
		return wrong_usage("--summary cannot be combined with --guest or --host", "");
	options->image = argv[optind];
	return MAP_DONE;
}

bool map_options_parse(int argc, char **argv, struct map_options *options, int *exit_code)
{
	*options = (struct map_options){0};
	*exit_code = MAP_DONE;
	for (int option; (option = getopt_long(argc, argv, "sg:H:h", long_options, NULL)) != -1;) {
		if (option == 'h' || option == OPTION_VERSION) {
			fputs(option == 'h' ? help_text : "zcfs-map " ZCFS_VERSION "\n", stdout);
			return false;
		}
		*exit_code = take_option(option, options);
		if (*exit_code)
			return false;
	}
	*exit_code = take_image(argc, argv, options);
	return *exit_code == MAP_DONE;
}

void map_options_free(struct map_options *options)
{
	free(options->questions);
}

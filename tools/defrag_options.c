/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/defrag_options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/defrag_options_internal.h"
#include "tools/outcome.h"
#include "tools/saved_domains.h"

#define JOBS_MAX         64
#define SHUTDOWN_SECONDS 300 /* what Xen's own scripts allow a guest */

static const char help_text[] = "Usage: zcfs-defrag [OPTION]... IMAGE... [-- FILE...] | --all DIRECTORY...\n"
                                "Defragments the NTFS volumes inside disk images (raw files or bundles) without\n"
                                "moving data. The guest must be shut down, except for --analyze and --settle.\n"
                                "  -a, --analyze         show how fragmented it is and what a pass would do\n"
                                "  -n, --dry-run         plan and verify, print the same figures, change nothing\n"
                                "      --undo            bring back what the guest saw before the last pass\n"
                                "      --settle          make the image sequential on the host; the guest may run\n"
                                "      --discard         free the host's space of free clusters; -n: how much?\n"
                                "      --plain[=HOW]     turn a bundle back into an ordinary raw file\n"
                                "      --pack            lay everything out anew; --order=KEY: in this order\n"
                                "      --only=GLOB       only these files; --exclude, --min-size, --min-fragments\n"
                                "      --volume=N        only the N-th volume of the image\n"
                                "      --verify=data     also compare data at both ends of every moved file\n"
                                "      --all, --jobs=N   every image below a directory, N at a time\n"
                                "      --wait[=SECONDS]  wait while it is in use; --time-limit=SECONDS for it all\n"
                                "      --shutdown        ask a Xen domain that uses it to power off, and wait\n"
                                "      --picture[=FILE]  draw volumes (.png, .svg); --report=FILE: an HTML page\n"
                                "      --json            print one JSON document; --csv=FILE: fragmented files\n"
                                "  -v, --verbose; -q, --quiet (only errors and refusals); -h, --help; --version\n"
                                "Examples:\n"
                                "  zcfs-defrag --analyze /srv/images/*.img     how bad is it?\n"
                                "  zcfs-defrag /srv/images/win10.img           defragment\n"
                                "Exit status: 0 done, 1 failed, 2 usage, 3 refused, 4 in use, 5 damaged.\n";

#define OPERAND 1 /* what getopt returns for one, if asked to keep the order */

enum {
	OPTION_PACK = 256,
	OPTION_ORDER,
	OPTION_PLAIN,
	OPTION_UNDO,
	OPTION_SETTLE,
	OPTION_DISCARD,
	OPTION_RATE,
	OPTION_IDLE,
	OPTION_TIME_LIMIT,
	OPTION_THRESHOLD,
	OPTION_VERIFY,
	OPTION_VOLUME,
	OPTION_ONLY,
	OPTION_EXCLUDE,
	OPTION_MIN_FRAGMENTS,
	OPTION_MIN_SIZE,
	OPTION_WAIT,
	OPTION_SHUTDOWN,
	OPTION_SAVED,
	OPTION_ALL,
	OPTION_JOBS,
	OPTION_JSON,
	OPTION_PICTURE,
	OPTION_REPORT,
	OPTION_CSV,
	OPTION_VERSION
};

static const struct option long_options[] = {
        {"analyze", no_argument, NULL, 'a'},
        {"analyse", no_argument, NULL, 'a'},
        {"dry-run", no_argument, NULL, 'n'},
        {"pack", no_argument, NULL, OPTION_PACK},
        {"order", required_argument, NULL, OPTION_ORDER},
        {"plain", optional_argument, NULL, OPTION_PLAIN},
        {"undo", no_argument, NULL, OPTION_UNDO},
        {"settle", no_argument, NULL, OPTION_SETTLE},
        {"discard", optional_argument, NULL, OPTION_DISCARD},
        {"rate", required_argument, NULL, OPTION_RATE},
        {"idle", no_argument, NULL, OPTION_IDLE},
        {"time-limit", required_argument, NULL, OPTION_TIME_LIMIT},
        {"threshold", required_argument, NULL, OPTION_THRESHOLD},
        {"verify", required_argument, NULL, OPTION_VERIFY},
        {"volume", required_argument, NULL, OPTION_VOLUME},
        {"only", required_argument, NULL, OPTION_ONLY},
        {"exclude", required_argument, NULL, OPTION_EXCLUDE},
        {"min-fragments", required_argument, NULL, OPTION_MIN_FRAGMENTS},
        {"min-size", required_argument, NULL, OPTION_MIN_SIZE},
        {"wait", optional_argument, NULL, OPTION_WAIT},
        {"shutdown", no_argument, NULL, OPTION_SHUTDOWN},
        {"saved", required_argument, NULL, OPTION_SAVED},
        {"all", no_argument, NULL, OPTION_ALL},
        {"jobs", required_argument, NULL, OPTION_JOBS},
        {"verbose", no_argument, NULL, 'v'},
        {"quiet", no_argument, NULL, 'q'},
        {"json", no_argument, NULL, OPTION_JSON},
        {"picture", optional_argument, NULL, OPTION_PICTURE},
        {"report", required_argument, NULL, OPTION_REPORT},
        {"csv", required_argument, NULL, OPTION_CSV},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, OPTION_VERSION},
        {0},
};

bool defrag_changes_view(enum defrag_mode mode)
{
	return mode == MODE_DEFRAG || mode == MODE_DRY_RUN || mode == MODE_UNDO || mode == MODE_DISCARD;
}

const char *plain_method_name(enum plain_method method)
{
	static const char *const names[] = {"auto", "exchange", "reflink", "settle", "copy"};
	return names[method];
}

const char *defrag_mode_name(enum defrag_mode mode)
{
	static const char *const names[] = {"defrag", "dry-run", "analyze", "undo", "plain", "settle", "discard"};
	return names[mode];
}

int wrong_usage(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	fputs("zcfs-defrag: ", stderr);
	vfprintf(stderr, format, arguments);
	fputs("\nTry 'zcfs-defrag --help'.\n", stderr);
	va_end(arguments);
	return EXIT_USAGE;
}

/* From 1 to max. */
static bool parse_count(const char *text, unsigned int max, unsigned int *count)
{
	char *end;
	errno = 0;
	unsigned long value = strtoul(text, &end, 10);
	if (errno || end == text || *end || value == 0 || value > max || text[0] == '-')
		return false;
	*count = (unsigned int)value;
	return true;
}

static bool parse_number(const char *text, double *value)
{
	char *end;
	*value = strtod(text, &end);
	return end != text && !*end && isfinite(*value) && *value > 0 && *value <= INT_MAX;
}

/* A number of units, as bytes. */
static bool parse_bytes(const char *text, uint64_t unit, uint64_t *bytes)
{
	double value;
	if (!parse_number(text, &value) || value * (double)unit < 1)
		return false;
	*bytes = (uint64_t)(value * (double)unit);
	return true;
}

static int take_settle_option(int option, struct settle_settings *settle)
{
	switch (option) {
	case OPTION_RATE:
		return parse_bytes(optarg, 1000000, &settle->rate)
		               ? 0
		               : wrong_usage("--rate takes a number of megabytes per second, not %s", optarg);
	case OPTION_THRESHOLD:
		return parse_bytes(optarg, 1024, &settle->threshold)
		               ? 0
		               : wrong_usage("--threshold takes a number of KiB, not %s", optarg);
	default:
		settle->idle = true;
		return 0;
	}
}

static bool has_suffix(const char *text, const char *suffix)
{
	size_t length = strlen(text);
	return length > strlen(suffix) && strcmp(text + length - strlen(suffix), suffix) == 0;
}

/* A number of bytes, or with K, M, G or T behind it of so many times 1024. */
static bool parse_size(const char *text, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	char *end;
	double value = strtod(text, &end);
	const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
	if (end == text || (*end && (!unit || end[1])) || !isfinite(value))
		return false;
	if (unit)
		value = ldexp(value, 10 * (int)(unit - units + 1));
	if (value < 1 || value > (double)INT64_MAX / 2)
		return false;
	*bytes = (uint64_t)value;
	return true;
}

/* The exit code for what has failed through no fault of the user's: 0 if nothing has. */
static int check_prepared(int error)
{
	if (error)
		fprintf(stderr, "zcfs-defrag: %s\n",
		        error == -ENOENT ? "the system's C library has no locale C.UTF-8" : strerror(-error));
	return error ? EXIT_FAILED : 0;
}

/* How the addition of a path or a pattern to the selection has ended, as 0 or the exit code. */
static int check_added(int error, const char *text)
{
	if (error == -EINVAL)
		return wrong_usage("a path starts at the root of its volume, without a drive letter (use --volume): %s",
		                   text);
	return check_prepared(error);
}

static int take_selection_option(int option, struct selection *selection)
{
	unsigned int fragments;
	switch (option) {
	case OPTION_ONLY:
		return check_added(selection_add_pattern(selection, &selection->only, optarg), optarg);
	case OPTION_EXCLUDE:
		return check_added(selection_add_pattern(selection, &selection->exclude, optarg), optarg);
	case OPTION_MIN_FRAGMENTS:
		if (!parse_count(optarg, UINT_MAX, &fragments))
			return wrong_usage("--min-fragments takes a number from 1, not %s", optarg);
		selection->min_fragments = fragments;
		return 0;
	default:
		return parse_size(optarg, &selection->min_bytes)
		               ? 0
		               : wrong_usage("--min-size takes a number of bytes with an optional K, M, G or T, not %s",
		                             optarg);
	}
}

static const char *const order_names[] = {"", "path", "size", "created", "modified", "accessed"};

/* With "-" before it descending. */
static bool parse_order(const char *text, struct defrag_options *options)
{
	options->descending = *text == '-';
	text += options->descending;
	for (size_t i = ORDER_PATH; i <= ORDER_ACCESSED; i++) {
		options->order = (enum pack_order)i;
		if (strcmp(text, order_names[i]) == 0)
			return true;
	}
	return false;
}

static bool parse_plain(const char *text, enum plain_method *method)
{
	for (size_t i = PLAIN_AUTO; i <= PLAIN_COPY; i++) {
		*method = (enum plain_method)i;
		if (strcmp(text, plain_method_name(*method)) == 0)
			return true;
	}
	return false;
}

static int choose_mode(struct defrag_options *options, enum defrag_mode mode)
{
	if (options->mode != MODE_DEFRAG && options->mode != mode)
		return wrong_usage("--%s and --%s cannot be combined", defrag_mode_name(options->mode),
		                   defrag_mode_name(mode));
	options->mode = mode;
	return 0;
}

/* --dry-run is a mode, but for --discard. */
static int choose_discard(struct defrag_options *options)
{
	if (optarg && strcmp(optarg, "forget-undo") != 0)
		return wrong_usage("--discard takes only forget-undo, not %s", optarg);
	options->discard.forget_undo |= optarg != NULL;
	if (options->mode == MODE_DRY_RUN) {
		options->discard.dry_run = true;
		options->mode = MODE_DISCARD;
	}
	return choose_mode(options, MODE_DISCARD);
}

static int take_mode_option(int option, struct defrag_options *options)
{
	switch (option) {
	case 'a':
		return choose_mode(options, MODE_ANALYZE);
	case 'n':
		options->discard.dry_run = options->mode == MODE_DISCARD;
		return options->discard.dry_run ? 0 : choose_mode(options, MODE_DRY_RUN);
	case OPTION_DISCARD:
		return choose_discard(options);
	case OPTION_UNDO:
		return choose_mode(options, MODE_UNDO);
	case OPTION_PLAIN:
		if (optarg && !parse_plain(optarg, &options->plain))
			return wrong_usage("--plain takes exchange, reflink, settle or copy, not %s", optarg);
		return choose_mode(options, MODE_PLAIN);
	default:
		return choose_mode(options, MODE_SETTLE);
	}
}

/* How to defragment. */
static int take_pass_option(int option, struct defrag_options *options)
{
	switch (option) {
	case OPTION_PACK:
		options->pack = true;
		return 0;
	case OPTION_ORDER:
		return parse_order(optarg, options)
		               ? 0
		               : wrong_usage("--order takes path, size, created, modified or accessed, not %s", optarg);
	case OPTION_VERIFY:
		options->verify_data = true;
		return strcmp(optarg, "data") == 0 ? 0 : wrong_usage("--verify takes only data, not %s", optarg);
	default:
		return parse_count(optarg, REPORT_VOLUMES_MAX, &options->volume)
		               ? 0
		               : wrong_usage("--volume takes a number from 1, not %s", optarg);
	}
}

/* Images that are in use. */
static int take_use_option(int option, struct defrag_options *options)
{
	switch (option) {
	case OPTION_WAIT:
		options->wait = true;
		if (optarg && !parse_number(optarg, &options->wait_seconds))
			return wrong_usage("--wait takes a number of seconds, not %s", optarg);
		return 0;
	case OPTION_SHUTDOWN:
		options->shutdown = true;
		return 0;
	default:
		if (access(optarg, R_OK | X_OK) < 0)
			return wrong_usage("--saved: cannot read %s: %s", optarg, strerror(errno));
		return name_list_add(&options->saved, optarg) == 0 ? 0 : EXIT_FAILED;
	}
}

static int take_output_option(int option, struct defrag_options *options)
{
	switch (option) {
	case 'v':
		options->verbose = true;
		return 0;
	case 'q':
		options->quiet = true;
		return 0;
	case OPTION_JSON:
		options->json = true;
		return 0;
	case OPTION_PICTURE:
		options->picture |= !optarg;
		options->picture_file = optarg ? optarg : options->picture_file;
		return !optarg || has_suffix(optarg, ".png") || has_suffix(optarg, ".svg")
		               ? 0
		               : wrong_usage("--picture takes a name that ends in .png or .svg, not %s", optarg);
	case OPTION_REPORT:
		options->report_file = optarg;
		return has_suffix(optarg, ".html") || has_suffix(optarg, ".htm")
		               ? 0
		               : wrong_usage("--report takes a name that ends in .html, not %s", optarg);
	default:
		options->csv = optarg;
		return 0;
	}
}

/* One option; 0 or the exit code. */
static int take_option(int option, struct defrag_options *options)
{
	switch (option) {
	case 'a':
	case 'n':
	case OPTION_UNDO:
	case OPTION_SETTLE:
	case OPTION_DISCARD:
	case OPTION_PLAIN:
		return take_mode_option(option, options);
	case OPTION_PACK:
	case OPTION_ORDER:
	case OPTION_VERIFY:
	case OPTION_VOLUME:
		return take_pass_option(option, options);
	case OPTION_ONLY:
	case OPTION_EXCLUDE:
	case OPTION_MIN_FRAGMENTS:
	case OPTION_MIN_SIZE:
		return take_selection_option(option, &options->selection);
	case OPTION_RATE:
	case OPTION_IDLE:
	case OPTION_THRESHOLD:
		return take_settle_option(option, &options->settle);
	case OPTION_ALL:
		options->all = true;
		return 0;
	case OPTION_JOBS:
		return parse_count(optarg, JOBS_MAX, &options->jobs)
		               ? 0
		               : wrong_usage("--jobs takes a number from 1 to %d, not %s", JOBS_MAX, optarg);
	case OPTION_TIME_LIMIT:
		return parse_number(optarg, &options->limit_seconds)
		               ? 0
		               : wrong_usage("--time-limit takes a number of seconds, not %s", optarg);
	case OPTION_WAIT:
	case OPTION_SHUTDOWN:
	case OPTION_SAVED:
		return take_use_option(option, options);
	case 'v':
	case 'q':
	case OPTION_JSON:
	case OPTION_PICTURE:
	case OPTION_REPORT:
	case OPTION_CSV:
		return take_output_option(option, options);
	case OPERAND: /* argv has room for it: this one comes from there */
		options->images[options->image_count++] = optarg;
		return 0;
	default: /* getopt has said what is wrong */
		fputs("Try 'zcfs-defrag --help'.\n", stderr);
		return EXIT_USAGE;
	}
}

/* Adds to the text for the history; what does not fit is missing there. */
__attribute__((format(printf, 2, 3))) static void add_text(struct defrag_options *options, const char *format, ...)
{
	size_t length = strlen(options->text);
	va_list arguments;
	va_start(arguments, format);
	if (length > 0 && length + 1 < sizeof(options->text))
		options->text[length++] = ' ';
	vsnprintf(options->text + length, sizeof(options->text) - length, format, arguments);
	va_end(arguments);
}

static void describe_selection(struct defrag_options *options)
{
	const struct selection *selection = &options->selection;
	if (selection->min_fragments)
		add_text(options, "--min-fragments=%" PRIu64, selection->min_fragments);
	if (selection->min_bytes)
		add_text(options, "--min-size=%" PRIu64, selection->min_bytes);
	for (size_t i = 0; i < selection->only.count; i++)
		add_text(options, "--only=%s", selection->only.names[i]);
	for (size_t i = 0; i < selection->exclude.count; i++)
		add_text(options, "--exclude=%s", selection->exclude.names[i]);
	for (size_t i = 0; i < options->file_count; i++)
		add_text(options, i ? "%s" : "-- %s", options->files[i]);
}

static void describe(struct defrag_options *options)
{
	const struct settle_settings *settle = &options->settle;
	if (options->mode == MODE_SETTLE)
		add_text(options, "--settle");
	if (options->mode == MODE_DISCARD)
		add_text(options, options->discard.forget_undo ? "--discard=forget-undo" : "--discard");
	if (options->pack)
		add_text(options, "--pack");
	if (options->order != ORDER_MFT)
		add_text(options, "--order=%s%s", options->descending ? "-" : "", order_names[options->order]);
	if (options->volume)
		add_text(options, "--volume=%u", options->volume);
	if (settle->rate)
		add_text(options, "--rate=%.6g", (double)settle->rate / 1e6);
	if (settle->idle)
		add_text(options, "--idle");
	if (options->limit_seconds > 0)
		add_text(options, "--time-limit=%.6g", options->limit_seconds);
	if (settle->threshold)
		add_text(options, "--threshold=%.6g", (double)settle->threshold / 1024);
	describe_selection(options);
}

/* Behind "--" are files of the image before it; without one, images, whatever they begin with. */
static int take_rest(int argc, char **argv, struct defrag_options *options)
{
	options->file_count = options->image_count ? (size_t)(argc - optind) : 0;
	options->files = argv + optind;
	for (size_t i = 0; i < options->file_count; i++) {
		int exit_code =
		        check_added(selection_add_file(&options->selection, options->files[i]), options->files[i]);
		if (exit_code)
			return exit_code;
	}
	for (; !options->file_count && optind < argc; optind++)
		options->images[options->image_count++] = argv[optind];
	return 0;
}

int defrag_options_parse(int argc, char **argv, struct defrag_options *options, int *exit_code)
{
	*options = (struct defrag_options){.images = argv + 1};
	*exit_code = check_prepared(saved_places_add(&options->saved));
	if (*exit_code)
		return 1;
	for (int option; (option = getopt_long(argc, argv, "-anvqh", long_options, NULL)) != -1;) {
		if (option == 'h' || option == OPTION_VERSION) {
			fputs(option == 'h' ? help_text : "zcfs-defrag " ZCFS_VERSION "\n", stdout);
			*exit_code = EXIT_DONE;
			return 1;
		}
		*exit_code = take_option(option, options);
		if (*exit_code)
			return 1;
	}
	*exit_code = take_rest(argc, argv, options);
	if (*exit_code)
		return 1;
	describe(options);
	*exit_code = defrag_options_check(options);
	if (options->shutdown && !options->wait) {
		options->wait = true;
		options->wait_seconds = SHUTDOWN_SECONDS;
	}
	return *exit_code != 0;
}

void defrag_options_release(struct defrag_options *options)
{
	name_list_release(&options->saved);
	selection_release(&options->selection);
}

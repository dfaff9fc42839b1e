/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * zcfs-defrag: defragments the images named on the command line, or all of a store (tools/fleet.h).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "mapdb/cleanup.h"
#include "tools/defrag_image.h"
#include "tools/drawing.h"
#include "tools/fleet.h"
#include "tools/output.h"
#include "tools/progress.h"
#include "tools/stop.h"
#include "tools/text.h"

#define JSON_SCHEMA 1 /* of the document: a new number if a field goes or changes its meaning */

/* What there is besides messages. */
struct report {
	json_t *images; /* NULL: text */
	FILE *csv;      /* NULL: none */
	struct drawing drawing;
	bool lost; /* some of it */
};

/* ---- the images ---- */

static void tell(const struct defrag_options *options, struct outcome *outcome, struct report *report)
{
	if (report->csv)
		report->lost |= file_list_write(&outcome->files, outcome->image, report->csv) < 0;
	if (report->images) {
		report->lost |= json_array_append_new(report->images, outcome_json(outcome, options)) != 0;
		outcome_print_problems(outcome);
	} else {
		outcome_print(outcome, options);
	}
	drawing_add(&report->drawing, outcome);
}

static int defrag_images(const struct defrag_options *options, struct report *report)
{
	int exit_code = EXIT_DONE;
	for (size_t i = 0; i < options->image_count; i++) {
		struct outcome outcome = {.image = text_escape(options->images[i], true)};
		if (!outcome.image) {
			fputs("zcfs-defrag: not enough memory; the remaining images have not been looked at\n", stderr);
			return graver_exit_code(exit_code, EXIT_FAILED);
		}
		defrag_image(options->images[i], options, &outcome);
		exit_code = graver_exit_code(exit_code, outcome.exit_code);
		tell(options, &outcome, report);
		outcome_release(&outcome);
		if (stop_requested() && i + 1 < options->image_count) {
			fputs("zcfs-defrag: stopped; the remaining images have not been looked at\n", stderr);
			return graver_exit_code(exit_code, EXIT_FAILED);
		}
	}
	return exit_code;
}

/* ---- the report ---- */

static bool begin_report(const struct defrag_options *options, struct report *report)
{
	int error = options->csv ? file_list_create(options->csv, &report->csv) : 0;
	if (error) {
		fprintf(stderr,
		        "zcfs-defrag: --csv: cannot write %s: %s; it takes a new file, or such a list to replace\n"
		        "Try 'zcfs-defrag --help'.\n",
		        options->csv, strerror(-error));
		return false;
	}
	if (!drawing_begin(&report->drawing, options)) {
		if (report->csv)
			fclose(report->csv);
		return false;
	}
	report->images = options->json ? json_array() : NULL;
	report->lost = options->json && !report->images;
	return true;
}

/* What could not be written is standard output's error. */
static bool print_json(json_t *images, int exit_code)
{
	json_t *document = json_pack("{s:i, s:s, s:i, s:o}", "schema", JSON_SCHEMA, "zcfs", ZCFS_VERSION, "exit_code",
	                             exit_code, "images", images);
	bool made = document &&
	            (json_dumpf(document, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(6)) == 0 ||
	             ferror(stdout));
	putchar('\n');
	json_decref(document);
	return made;
}

/* The exit code, with what becomes of the report. */
static int finish_report(struct report *report, int exit_code)
{
	if (!drawing_finish(&report->drawing))
		exit_code = graver_exit_code(exit_code, EXIT_FAILED);
	if (report->csv)
		report->lost |= output_close(report->csv);
	int failed = graver_exit_code(exit_code, EXIT_FAILED);
	if (report->images)
		report->lost |= !print_json(report->images, report->lost ? failed : exit_code);
	if (!output_lost(stdout) && !report->lost)
		return exit_code;
	fputs("zcfs-defrag: the report could not be written; the work on the images is not affected\n", stderr);
	return failed;
}

/* ---- everything ---- */

static void warn_of_save_file(const char *path, const char *why)
{
	cleanup_free char *printable = text_escape(path, true);
	fprintf(stderr, "zcfs-defrag: warning: %s cannot be searched for disks of a saved domain: %s\n",
	        printable ? printable : "?", why);
}

static int run(const struct defrag_options *options)
{
	struct report report = {0};
	if (!begin_report(options, &report))
		return EXIT_USAGE;
	if (defrag_changes_view(options->mode))
		saved_domains_doubtful(&options->saved, warn_of_save_file);
	int exit_code =
	        options->all ? fleet_run(options, report.images, &report.drawing) : defrag_images(options, &report);
	return finish_report(&report, exit_code);
}

int main(int argc, char **argv)
{
	struct defrag_options options;
	int exit_code;
	if (io_fill_standard_fds() < 0)
		return EXIT_FAILED;
	if (!defrag_options_parse(argc, argv, &options, &exit_code)) {
		stop_on_signals();
		if (options.limit_seconds > 0)
			stop_after(options.limit_seconds);
		progress_on_signal(options.all);
		exit_code = run(&options);
	}
	defrag_options_release(&options);
	return exit_code;
}

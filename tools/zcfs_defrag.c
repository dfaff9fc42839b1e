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
#include "tools/progress.h"
#include "tools/stop.h"
#include "tools/text.h"

#define JSON_SCHEMA 1 /* of the document: a new number if a field goes or changes its meaning */

static int print_json(json_t *images, int exit_code)
{
	json_t *document = json_pack("{s:i, s:s, s:i, s:o}", "schema", JSON_SCHEMA, "zcfs", ZCFS_VERSION, "exit_code",
	                             exit_code, "images", images);
	if (!document)
		return -ENOMEM;
	int error = json_dumpf(document, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) ? -EIO : 0;
	putchar('\n');
	json_decref(document);
	return error;
}

static int defrag_images(const struct defrag_options *options, json_t *images, struct drawing *drawing, FILE *csv)
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
		if (csv && file_list_write(&outcome.files, outcome.image, csv) < 0)
			fputs("zcfs-defrag: not enough memory for the list of files: it is incomplete\n", stderr);
		if (images) {
			json_array_append_new(images, outcome_json(&outcome, options));
			outcome_print_problems(&outcome);
		} else {
			outcome_print(&outcome, options);
		}
		drawing_add(drawing, &outcome);
		outcome_release(&outcome);
		if (stop_requested() && i + 1 < options->image_count) {
			fputs("zcfs-defrag: stopped; the remaining images have not been looked at\n", stderr);
			return graver_exit_code(exit_code, EXIT_FAILED);
		}
	}
	return exit_code;
}

static void warn_of_save_file(const char *path, const char *why)
{
	cleanup_free char *printable = text_escape(path, true);
	fprintf(stderr, "zcfs-defrag: warning: %s cannot be searched for disks of a saved domain: %s\n",
	        printable ? printable : "?", why);
}

static int run(const struct defrag_options *options)
{
	FILE *csv = NULL;
	int error = options->csv ? file_list_create(options->csv, &csv) : 0;
	if (error) {
		fprintf(stderr,
		        "zcfs-defrag: --csv: cannot write %s: %s; it takes a new file, or such a list to replace\n"
		        "Try 'zcfs-defrag --help'.\n",
		        options->csv, strerror(-error));
		return EXIT_USAGE;
	}
	json_t *images = options->json ? json_array() : NULL;
	bool lost = options->json && !images;
	struct drawing drawing;
	if (!drawing_begin(&drawing, options)) {
		json_decref(images);
		if (csv)
			fclose(csv);
		return EXIT_USAGE;
	}
	if (defrag_changes_view(options->mode))
		saved_domains_doubtful(&options->saved, warn_of_save_file);
	int exit_code =
	        options->all ? fleet_run(options, images, &drawing) : defrag_images(options, images, &drawing, csv);
	if (images)
		lost |= print_json(images, exit_code) != 0;
	drawing_finish(&drawing);
	if (csv)
		lost |= ferror(csv) | fclose(csv);
	if (lost || fflush(stdout) || ferror(stdout))
		fputs("zcfs-defrag: the report could not be written; the images are as its exit status says\n", stderr);
	return exit_code;
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

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * zcfs-map: shows the map of one image, and what is where in it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mapdb/cleanup.h"
#include "mapdb/image.h"
#include "tools/locate.h"
#include "tools/map_answer.h"
#include "tools/map_options.h"
#include "tools/output.h"
#include "tools/stop.h"
#include "tools/text.h"

static int complain(const char *path, const char *cause, const char *remedy, int exit_code)
{
	fputs("zcfs-map: ", stderr);
	text_print(stderr, path);
	fprintf(stderr, ": %s\n", cause);
	if (*remedy)
		fprintf(stderr, "  what to do: %s\n", remedy);
	return exit_code;
}

static int explain(const char *path, int error, const char *remedy)
{
	static const struct {
		int error;
		const char *cause, *remedy;
	} explanations[] = {
	        {ENOENT, "no such image", ""},
	        {ENOTDIR, "no such image", ""},
	        {EISDIR, "is a directory, not an image", "name one image"},
	        {EINVAL, "is neither a file nor a bundle", ""},
	        {ENOTUNIQ, "is a part of a bundle, not an image", "name the bundle"},
	        {EACCES, "permission denied", "run as root, or as the owner of the store"},
	        {EPERM, "not permitted", "run as root, or as the owner of the store"},
	        {ENOTCONN, "the zcfs that served this mount is gone",
	         "unmount what it left (fusermount3 -u), or start zcfs again"},
	        {EBUSY, "its map database stayed locked by another program", "try again later"},
	        {EAGAIN, "its data cannot be read while a tool works on it",
	         "try again later; without --guest and --host only its map is read"},
	        {EIO, "input/output error", "look into the kernel's log (dmesg) before anything else"},
	        {EINTR, "stopped", ""},
	        {ECANCELED, "stopped", ""},
	};

	if (error == -EUCLEAN)
		return complain(path, "its map is damaged", "zcfs-check tells what is wrong with it", MAP_DAMAGED);
	for (size_t i = 0; i < sizeof(explanations) / sizeof(explanations[0]); i++) {
		if (explanations[i].error == -error)
			return complain(path, explanations[i].cause, *remedy ? remedy : explanations[i].remedy,
			                MAP_FAILED);
	}
	return complain(path, strerror(-error), remedy, MAP_FAILED);
}

/* ---- the questions ---- */

static int check_stop(void *context, unsigned int volume, enum pass_phase phase, uint64_t done, uint64_t total)
{
	return stop_requested();
}

/* The guest's metadata is parsed where a pass does it, in a sandbox. */
static int find_owners(struct image *image, struct map_answer *answers, size_t count, struct pass_report *report)
{
	cleanup_free struct owner_query *queries = calloc(count, sizeof(*queries));
	struct pass_options options = {
	        .analyze = true, .owners = queries, .owner_count = count, .progress = check_stop};

	if (!queries)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		queries[i].guest_off = answers[i].mapped ? answers[i].guest_off : UINT64_MAX;
	int error = guest_pass_run(image, &options, report);
	for (size_t i = 0; i < count; i++)
		answers[i].owner = queries[i];
	return error;
}

static void answers_free(struct map_answer *answers, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(answers[i].owner.path);
	free(answers);
}

/* ---- the image ---- */

static int answer(struct image *image, const struct map_options *options)
{
	struct map_answer *answers = calloc(options->question_count + 1, sizeof(*answers));
	struct pass_report report = {0};
	struct map_figures figures;

	if (!answers)
		return -ENOMEM;
	for (size_t i = 0; i < options->question_count; i++)
		answers[i].question = options->questions[i];
	int error = map_answer_find(image, answers, options->question_count);
	if (!error && options->question_count)
		error = find_owners(image, answers, options->question_count, &report);
	if (!error)
		error = map_figures(image, &figures);
	if (!error && options->json)
		error = map_print_json(image, options, &figures, answers);
	else if (!error && options->summary)
		map_print_summary(image, options->image, &figures);
	else if (!error && options->question_count)
		map_print_answers(answers, options->question_count, &report);
	else if (!error)
		map_print_table(image->map);
	answers_free(answers, options->question_count);
	pass_report_free(&report);
	return error;
}

static int show(const struct map_options *options)
{
	struct location location = LOCATION_INIT;
	struct image *image = NULL;
	int flags = options->question_count ? IMAGE_READ_ONLY : IMAGE_READ_ONLY | IMAGE_MAP_ONLY;
	int error = locate_image(options->image, &location);

	if (!error)
		error = image_open(&io_posix, location.parent_fd, location.name, IMAGE_UNLOCKED, flags, 0, &image);
	if (!error)
		error = answer(image, options);
	int exit_code = error ? explain(options->image, error, location.remedy) : MAP_DONE;
	image_close(image);
	location_release(&location);
	return exit_code;
}

int main(int argc, char **argv)
{
	struct map_options options;
	int exit_code = MAP_DONE;

	if (io_fill_standard_fds() < 0)
		return MAP_FAILED;
	if (map_options_parse(argc, argv, &options, &exit_code)) {
		stop_on_signals();
		exit_code = show(&options);
	}
	map_options_free(&options);
	if (output_lost(stdout)) {
		fputs("zcfs-map: standard output could not be written\n", stderr);
		exit_code = MAP_FAILED;
	}
	return exit_code;
}

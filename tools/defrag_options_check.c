/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * defrag_options: which of them go together.
 */
#include "tools/defrag_options_internal.h"

static int check_fleet(const struct defrag_options *options)
{
	if (options->jobs && !options->all)
		return wrong_usage("--jobs is for --all");
	if (!options->all)
		return 0;
	if (options->mode != MODE_DEFRAG && options->mode != MODE_DRY_RUN && options->mode != MODE_ANALYZE &&
	    options->mode != MODE_DISCARD)
		return wrong_usage("--all and --%s cannot be combined", defrag_mode_name(options->mode));
	if (options->wait || options->shutdown)
		return wrong_usage("--all leaves images in use alone: it never waits");
	if (options->volume)
		return wrong_usage("--all and --volume cannot be combined");
	if (options->csv)
		return wrong_usage("--all and --csv cannot be combined");
	return 0;
}

static int check_pictures(const struct defrag_options *options)
{
	bool looks = options->mode == MODE_DEFRAG || options->mode == MODE_DRY_RUN || options->mode == MODE_ANALYZE;
	if (!options->picture && !options->picture_file && !options->report_file)
		return 0;
	if (!looks)
		return wrong_usage("--%s %s: there is nothing to draw", defrag_mode_name(options->mode),
		                   options->mode == MODE_DISCARD ? "plans nothing" : "looks at no volume");
	if (options->picture && (options->quiet || options->json))
		return wrong_usage("--picture draws on standard output; with --%s it needs a file",
		                   options->quiet ? "quiet" : "json");
	if (options->all && (options->picture || options->picture_file))
		return wrong_usage("--all draws no pictures except in --report");
	if (options->picture_file && options->image_count > 1)
		return wrong_usage("--picture draws one image into a file");
	return 0;
}

static int check_selection(const struct defrag_options *options, bool passes)
{
	if (!selection_selects(&options->selection))
		return 0;
	if (!passes && options->mode != MODE_ANALYZE)
		return wrong_usage("--%s works on whole images: no files can be chosen",
		                   defrag_mode_name(options->mode));
	if (options->pack)
		return wrong_usage("--pack lays everything out anew: no files can be chosen");
	if (options->file_count && options->image_count != 1)
		return wrong_usage("files after -- need exactly one image");
	if (options->file_count && options->all)
		return wrong_usage("with --all files are chosen by --only");
	return 0;
}

int defrag_options_check(const struct defrag_options *options)
{
	const struct settle_settings *settle = &options->settle;
	bool passes = options->mode == MODE_DEFRAG || options->mode == MODE_DRY_RUN;
	if (options->order != ORDER_MFT && !options->pack)
		return wrong_usage("--order is for --pack");
	if (options->pack && !passes)
		return wrong_usage("--pack cannot be combined with --%s", defrag_mode_name(options->mode));
	if (options->verify_data && !passes)
		return wrong_usage("--verify cannot be combined with --%s", defrag_mode_name(options->mode));
	if (options->csv && !passes && options->mode != MODE_ANALYZE)
		return wrong_usage("--csv cannot be combined with --%s", defrag_mode_name(options->mode));
	if (options->volume && !passes && options->mode != MODE_ANALYZE && options->mode != MODE_DISCARD)
		return wrong_usage("--%s is for the whole image: it cannot be combined with --volume",
		                   defrag_mode_name(options->mode));
	if (options->mode != MODE_SETTLE && (settle->rate || settle->idle || settle->threshold))
		return wrong_usage("--rate, --idle and --threshold are for --settle");
	if (options->limit_seconds > 0 && (options->mode == MODE_UNDO || options->mode == MODE_PLAIN))
		return wrong_usage("--time-limit cannot be combined with --%s", defrag_mode_name(options->mode));
	if (options->wait && options->mode == MODE_ANALYZE)
		return wrong_usage("--analyze looks at an image in use, too: it never waits");
	if (options->shutdown && (options->mode == MODE_DRY_RUN || options->mode == MODE_ANALYZE ||
	                          options->mode == MODE_SETTLE || options->discard.dry_run))
		return wrong_usage("--shutdown cannot be combined with --%s",
		                   options->discard.dry_run ? "dry-run" : defrag_mode_name(options->mode));
	if (options->quiet && options->verbose)
		return wrong_usage("--quiet and --verbose cannot be combined");
	if (options->image_count == 0)
		return wrong_usage(options->all ? "no directory given" : "no image given");
	int exit_code = check_pictures(options);
	if (!exit_code)
		exit_code = check_selection(options, passes);
	return exit_code ? exit_code : check_fleet(options);
}

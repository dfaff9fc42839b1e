/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An outcome as text for a person. Everything that is printed from a report may come from the guest.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tools/outcome.h"
#include "tools/text.h"
#include "tools/volume_text.h"

static void print_problem(const char *image, unsigned int volume, const char *verdict, const char *cause,
                          const char *remedy)
{
	fprintf(stderr, "zcfs-defrag: %s: ", image);
	if (volume > 0)
		fprintf(stderr, "volume %u: ", volume);
	fputs(verdict, stderr);
	text_print(stderr, cause);
	fputc('\n', stderr);
	if (!*remedy)
		return;
	fputs("  what to do: ", stderr);
	text_print(stderr, remedy);
	fputc('\n', stderr);
}

static const char *verdict_of(enum volume_result result)
{
	switch (result) {
	case VOLUME_REFUSED:
		return "refused: ";
	case VOLUME_DAMAGED:
		return "damaged: ";
	case VOLUME_FAILED:
		return "failed: ";
	default:
		return "left alone: ";
	}
}

static void print_problems_of_pass(const struct outcome *outcome)
{
	const struct pass_report *report = &outcome->report;
	if (report->cause[0])
		print_problem(outcome->image, 0, verdict_of(report->result), report->cause, report->remedy);
	for (size_t i = 0; i < report->volume_count; i++) {
		const struct volume_report *volume = &report->volumes[i];
		if (volume->result >= VOLUME_UNSUPPORTED)
			print_problem(outcome->image, volume->number, verdict_of(volume->result), volume->cause,
			              volume->remedy);
	}
}

void outcome_print_problems(const struct outcome *outcome)
{
	if (outcome->cause[0])
		print_problem(outcome->image, 0, "", outcome->cause, outcome->remedy);
	if (outcome->reported)
		print_problems_of_pass(outcome);
	if (outcome->report.redo_pending)
		print_problem(outcome->image, 0, outcome->undone ? "undone" : "defragmented",
		              ", but the last step could not be completed",
		              "nothing is lost: the next open completes it; check the host's disk (dmesg, df)");
}

/* Of an image in another format the one volume says it, and what to do. */
static void print_no_volume(const struct outcome *outcome)
{
	const struct pass_report *report = &outcome->report;
	bool other = report->volume_count == 1 && report->volumes[0].remedy[0];
	printf("%s: nothing to do: ", outcome->image);
	text_print(stdout, other ? report->volumes[0].cause : "no NTFS volume");
	putchar('\n');
	if (!other)
		return;
	printf("  what to do: ");
	text_print(stdout, report->volumes[0].remedy);
	putchar('\n');
}

static void print_others(const struct outcome *outcome, const struct volume_report *volume)
{
	printf("%s: volume %u (", outcome->image, volume->number);
	text_print(stdout, volume->file_system);
	printf("): left alone");
	if (volume->cause[0]) {
		printf(": ");
		text_print(stdout, volume->cause);
	}
	putchar('\n');
}

static void print_cost(const struct outcome *outcome)
{
	const struct pass_report *report = &outcome->report;
	char number[TEXT_NUMBER_MAX];
	printf("  extents of the image map: %s", text_number(number, report->extents_before));
	if (!report->cost_known || !report->metadata_bytes) { /* not known, or nothing */
		printf("; %.2f s\n", outcome->seconds);
		return;
	}
	printf(" before, %s after\n", text_number(number, report->extents_after));
	printf("  metadata %s: %s bytes; ", report->changed ? "written" : "to write",
	       text_number(number, report->metadata_bytes));
	printf("file data copied: %s bytes; ", text_number(number, report->data_bytes_copied));
	printf("%.2f s\n", outcome->seconds);
}

static void print_phases(const struct outcome *outcome)
{
	char number[TEXT_NUMBER_MAX];
	for (int phase = 0; phase < PHASE_COUNT; phase++)
		printf("%s %s %.2f s%s", phase % 4 ? "" : " ", pass_phase_name((enum pass_phase)phase),
		       outcome->report.phase_seconds[phase], phase % 4 == 3 ? ",\n" : ",");
	printf(" peak memory %s\n", text_bytes(number, outcome->report.child_peak_kib * 1024));
}

static void print_details(const struct outcome *outcome)
{
	print_phases(outcome);
	if (outcome->unleased)
		printf("%s: its file system has no leases: only flock has kept others out\n", outcome->image);
}

static void print_unserved(const struct outcome *outcome)
{
	if (outcome->unserved)
		printf("%s: is a bundle (a directory) now: mount its store with zcfs before its guest starts\n",
		       outcome->image);
}

static void print_figures(const struct outcome *outcome, const struct defrag_options *options)
{
	const struct pass_report *report = &outcome->report;
	size_t volumes_done = 0;
	if (outcome->in_use)
		printf("%s: in use: figures are approximate\n", outcome->image);
	for (size_t i = 0; i < report->volume_count; i++) {
		const struct volume_report *volume = &report->volumes[i];
		if (outcome_has_figures(volume, options->mode)) {
			volume_print(outcome, volume, options);
			volumes_done++;
		} else if (volume->result == VOLUME_SKIPPED && !volume->remedy[0] &&
		           (options->verbose || !options->volume)) {
			print_others(outcome, volume);
		}
	}
	if (volumes_done > 0)
		print_cost(outcome);
	else if (outcome->exit_code == EXIT_DONE)
		print_no_volume(outcome);
	print_unserved(outcome);
	if (options->verbose)
		print_details(outcome);
}

static void print_plain(const struct outcome *outcome)
{
	char number[TEXT_NUMBER_MAX];
	const struct plain_report *plain = &outcome->plain;
	if (outcome->was_plain) {
		printf("%s: is a plain image already\n", outcome->image);
		return;
	}
	printf("%s: a plain image again, ", outcome->image);
	if (plain->method == PLAIN_EXCHANGE || plain->method == PLAIN_SETTLE)
		printf("the same file as before; ");
	else
		printf("a new file; blocks shared with the old one: %s, ", text_bytes(number, plain->bytes_shared));
	printf("file data copied: %s; ", text_bytes(number, plain->bytes_copied));
	printf("history and undo are gone; %.2f s\n", outcome->seconds);
}

static void print_settled(const struct outcome *outcome)
{
	const struct settle_report *settle = &outcome->settle;
	char number[TEXT_NUMBER_MAX];
	if (settle->plain) {
		printf("%s: nothing to do: it has no image map, its bytes are where a plain file has them\n",
		       outcome->image);
		return;
	}
	printf("%s: %s; extents of the image map: %s before", outcome->image,
	       !settle->finished     ? "not finished, the next --settle continues"
	       : settle->bytes_moved ? "settled"
	                             : "nothing to do",
	       text_number(number, settle->extents_before));
	printf(", %s after; ", text_number(number, settle->extents_after));
	printf("%s moved", text_bytes(number, settle->bytes_moved));
	if (!settle->finished)
		printf(", %s left", text_bytes(number, settle->bytes_left));
	printf("; %.2f s\n", outcome->seconds);
}

static uint64_t bytes_given_back(const struct discard_report *discard)
{
	bool less = discard->allocated_after < discard->allocated_before;
	return less ? discard->allocated_before - discard->allocated_after : 0;
}

/* "a.img: given back: 8.1 GiB (8,697,308,160 bytes)". */
static void print_given_back(const struct outcome *outcome, bool dry_run)
{
	uint64_t bytes = bytes_given_back(&outcome->discard);
	char number[TEXT_NUMBER_MAX];
	printf("%s: %s: ", outcome->image, dry_run ? "would be given back" : "given back");
	printf("%s ", text_bytes(number, bytes));
	printf("(%s bytes)%s", text_number(number, bytes), outcome->discard.finished ? "" : ", not finished");
}

static void print_free(const struct volume_report *volume)
{
	char free_bytes[TEXT_NUMBER_MAX], bytes[TEXT_NUMBER_MAX];
	printf("  volume %u", volume->number);
	if (volume->label[0]) {
		printf(" \"");
		text_print(stdout, volume->label);
		putchar('"');
	}
	printf(": %s of %s free\n", text_bytes(free_bytes, volume->clusters_free * volume->cluster_size),
	       text_bytes(bytes, volume->clusters * volume->cluster_size));
}

/* What is no longer there will be missed by who wanted it back. */
static void print_discarded(const struct outcome *outcome, const struct defrag_options *options)
{
	const struct discard_report *discard = &outcome->discard;
	char before[TEXT_NUMBER_MAX], after[TEXT_NUMBER_MAX];
	print_given_back(outcome, options->discard.dry_run);
	printf("; space on the host: %s before, %s after; %.2f s\n", text_bytes(before, discard->allocated_before),
	       text_bytes(after, discard->allocated_after), outcome->seconds);
	for (size_t i = 0; i < outcome->report.volume_count; i++)
		if (outcome->report.volumes[i].result == VOLUME_DONE)
			print_free(&outcome->report.volumes[i]);
	if (bytes_given_back(discard) > 0)
		printf("  files that were deleted in the guest %s be recovered\n",
		       options->discard.dry_run ? "could then no longer" : "can no longer");
	if (options->verbose)
		print_details(outcome);
}

static void print_no_discard(const struct outcome *outcome)
{
	bool found = false;
	for (size_t i = 0; i < outcome->report.volume_count; i++)
		found |= outcome->report.volumes[i].result == VOLUME_DONE;
	if (found)
		printf("%s: nothing to do: no free clusters\n", outcome->image);
	else
		print_no_volume(outcome);
}

void outcome_print(const struct outcome *outcome, const struct defrag_options *options)
{
	bool analyzed = options->mode == MODE_ANALYZE && outcome->reported;
	if (!options->quiet && (outcome->exit_code == EXIT_DONE || analyzed)) {
		if (options->mode == MODE_DISCARD && !outcome->discarded)
			print_no_discard(outcome);
		else if (options->mode != MODE_DISCARD && outcome->reported)
			print_figures(outcome, options);
		else if (options->mode == MODE_UNDO)
			printf("%s: undone: the guest sees again what it saw before the last pass; %.2f s\n",
			       outcome->image, outcome->seconds);
		else if (options->mode == MODE_PLAIN)
			print_plain(outcome);
	}
	if (!options->quiet && outcome->settled)
		print_settled(outcome);
	if (!options->quiet && outcome->discarded)
		print_discarded(outcome, options);
	fflush(stdout);
	outcome_print_problems(outcome);
}

static void print_gist(const struct outcome *outcome, const struct defrag_options *options)
{
	enum defrag_mode mode = options->mode;
	uint64_t before = 0, after = 0, selected = 0;
	char first[TEXT_NUMBER_MAX], second[TEXT_NUMBER_MAX];
	if (mode == MODE_DISCARD) {
		print_given_back(outcome, options->discard.dry_run);
		printf("; %.2f s\n", outcome->seconds);
		return;
	}
	for (size_t i = 0; i < outcome->report.volume_count; i++) {
		before += outcome->report.volumes[i].fragments_before;
		after += outcome->report.volumes[i].fragments_after;
		selected += outcome->report.volumes[i].selected_files;
	}
	if (mode == MODE_ANALYZE) {
		printf("%s: fragmented: %s fragments", outcome->image, text_number(first, before));
		if (selection_selects(&options->selection))
			printf("; files selected: %s", text_number(second, selected));
		puts(outcome->in_use ? " (in use: about)" : "");
		return;
	}
	printf("%s: %s: fragments: %s before, %s after; ", outcome->image,
	       mode == MODE_DRY_RUN ? "would be defragmented" : "defragmented", text_number(first, before),
	       text_number(second, after));
	printf("%.2f s%s\n", outcome->seconds, outcome->unserved ? "; a bundle now: mount its store with zcfs" : "");
}

void outcome_print_line(const struct outcome *outcome, const struct defrag_options *options)
{
	enum gist gist = outcome_gist(outcome, options->mode);
	if (outcome->exit_code == EXIT_IN_USE) { /* not one of the problems of a fleet */
		if (!options->quiet) {
			printf("%s: left alone: ", outcome->image);
			text_print(stdout, outcome->cause);
			putchar('\n');
		}
		return;
	}
	if (gist == GIST_CHANGED && !options->quiet)
		print_gist(outcome, options);
	else if (gist == GIST_NOTHING && !options->quiet)
		printf("%s: %s\n", outcome->image, options->mode == MODE_ANALYZE ? "not fragmented" : "nothing to do");
	else if (gist == GIST_NO_VOLUME && options->verbose)
		print_no_volume(outcome);
	outcome_print_problems(outcome);
}

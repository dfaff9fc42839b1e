/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/volume_text.h"

#include <inttypes.h>
#include <stdio.h>

#include "tools/score.h"
#include "tools/text.h"

#define STAYS_SHOWN   5  /* without --verbose */
#define WORST_COLUMNS 54 /* for paths in the tables below */
#define STAY_COLUMNS  54

/* ---- figures ---- */

static void print_texts(const char *label, const char *before, const char *after, bool with_after)
{
	printf("  %-28s %14s", label, before);
	if (with_after)
		printf(" %14s", after);
	putchar('\n');
}

static void print_counts(const char *label, uint64_t before, uint64_t after, bool with_after)
{
	char first[TEXT_NUMBER_MAX], second[TEXT_NUMBER_MAX];
	print_texts(label, text_number(first, before), text_number(second, after), with_after);
}

static void print_bytes(const char *label, uint64_t before, uint64_t after, bool with_after)
{
	char first[TEXT_NUMBER_MAX], second[TEXT_NUMBER_MAX];
	print_texts(label, text_bytes(first, before), text_bytes(second, after), with_after);
}

static void print_figures(const struct volume_report *volume, bool with_after)
{
	uint64_t cluster = volume->cluster_size, clusters = volume->clusters_mapped;
	if (with_after)
		print_texts("", "before", "after", true);
	print_counts("score (0 best, 100 worst)", fragmentation_score(volume->excess_before, clusters),
	             fragmentation_score(volume->excess_after, clusters), with_after);
	print_counts("files and directories", volume->files, volume->files, with_after);
	print_counts("fragmented files", volume->fragmented_files_before, volume->fragmented_files_after, with_after);
	print_counts("fragments", volume->fragments_before, volume->fragments_after, with_after);
	print_counts("fragments in excess", volume->excess_before, volume->excess_after, with_after);
	print_counts("pieces of free space", volume->free_runs_before, volume->free_runs_after, with_after);
	print_bytes("largest piece of free space", volume->largest_free_before * cluster,
	            volume->largest_free_after * cluster, with_after);
}

static void print_details(const struct volume_report *volume, bool with_after)
{
	char number[TEXT_NUMBER_MAX];
	uint64_t cluster = volume->cluster_size;
	print_bytes("free", volume->clusters_free * cluster, volume->clusters_free * cluster, with_after);
	print_counts("fragmented attributes", volume->fragmented_before, volume->fragmented_after, with_after);
	printf("  at byte %s, ", text_number(number, volume->off));
	printf("clusters of %s, ", text_bytes(number, cluster));
	printf("%s records in use,\n", text_number(number, volume->records_used));
	printf("  %s non-resident attributes\n", text_number(number, volume->attributes));
	printf("  %s attributes %s, ", text_number(number, volume->attributes_moved), with_after ? "moved" : "to move");
	printf("%s clusters renamed", text_number(number, volume->clusters_moved));
	if (with_after)
		printf(", %s extension records freed", text_number(number, volume->records_freed));
	printf("%s\n", volume->laid_out_anew ? ",\n  everything laid out anew" : "");
}

/* ---- files ---- */

static void print_worst(const struct outcome *outcome, const struct volume_report *volume, bool whole)
{
	char pieces[TEXT_NUMBER_MAX], size[TEXT_NUMBER_MAX], path[TEXT_COLUMNS_MAX + 1];
	size_t shown = 0;
	for (size_t i = 0; i < outcome->files.count && shown < WORST_FILES; i++) {
		const struct fragmented *row = &outcome->files.rows[i];
		if (row->volume != volume->number)
			continue;
		if (shown++ == 0)
			printf("  %10s %10s  worst files\n", "fragments", "size");
		printf("  %10s %10s  ", text_number(pieces, row->fragments_before), text_bytes(size, row->data_bytes));
		if (whole) {
			text_print(stdout, row->path);
			text_print(stdout, row->stream);
			putchar('\n');
		} else {
			puts(text_end_of(path, row->path, row->stream, WORST_COLUMNS));
		}
	}
}

static void print_stays(const struct volume_report *volume, bool all)
{
	char pieces[TEXT_NUMBER_MAX], path[TEXT_COLUMNS_MAX + 1];
	size_t limit = all ? REPORT_STAYS_MAX : STAYS_SHOWN;
	size_t shown = volume->stay_count < limit ? volume->stay_count : limit;
	for (size_t i = 0; i < shown; i++) {
		const struct stay *stay = &volume->stays[i];
		if (i == 0)
			printf("  %10s  what stays in more than one piece, and why\n", "fragments");
		printf("  %10s  %s", text_number(pieces, stay->fragments),
		       text_end_of(path, stay->path, "", STAY_COLUMNS));
		printf("\n  %10s  ", "");
		text_print(stdout, stay->reason);
		putchar('\n');
	}
	if (volume->stay_count > shown)
		printf("  %10s  and %s more\n", "", text_number(pieces, volume->stay_count - shown));
}

/* ---- what follows ---- */

static void print_in_pieces(uint64_t files, const char *what, uint64_t excess)
{
	char number[TEXT_NUMBER_MAX];
	printf("  %s %s in ", text_number(number, files), what);
	printf("%s extra %s;", text_number(number, excess), excess == 1 ? "piece" : "pieces");
}

static void print_conclusion(const struct volume_report *volume, enum defrag_mode mode, bool selects)
{
	char number[TEXT_NUMBER_MAX];
	uint64_t files = volume->fragmented_files_before, mended = volume->files_mended;
	bool done = mode == MODE_DEFRAG;
	if (files == 0) {
		puts("  no file is in more than one piece");
		return;
	}
	print_in_pieces(files, files == 1 ? (done ? "file was" : "file") : (done ? "files were" : "files"),
	                volume->excess_before);
	if (selects && volume->selected_files == 0) {
		puts(" none of them is selected");
		return;
	}
	if (selects) {
		putchar('\n');
		print_in_pieces(volume->selected_files, "of them selected,", volume->selected_excess);
	}
	if (done && mended > 0)
		printf("\n  %s of them %s contiguous now", text_number(number, mended), mended == 1 ? "is" : "are");
	else if (done)
		printf(" none could be made contiguous");
	else if (volume->result != VOLUME_DONE)
		printf("\n  zcfs-defrag could make %s of them contiguous if it were not refused",
		       text_number(number, mended));
	else if (mended > 0)
		printf("\n  zcfs-defrag would make %s of them contiguous", text_number(number, mended));
	else
		printf(" zcfs-defrag would make none contiguous");
	putchar('\n');
}

static const char *what_was_done(const struct volume_report *volume, enum defrag_mode mode)
{
	if (mode == MODE_ANALYZE)
		return volume->fragmented_before ? "fragmented" : "not fragmented";
	if (!volume->attributes_moved && !volume->clusters_moved)
		return "nothing to do";
	return mode == MODE_DRY_RUN ? "would be defragmented" : "defragmented";
}

void volume_print(const struct outcome *outcome, const struct volume_report *volume,
                  const struct defrag_options *options)
{
	char number[TEXT_NUMBER_MAX];
	bool with_after = options->mode != MODE_ANALYZE;
	printf("%s: volume %u, NTFS ", outcome->image, volume->number);
	if (volume->label[0]) {
		putchar('"');
		text_print(stdout, volume->label);
		printf("\" ");
	}
	printf("(%s): %s\n", text_bytes(number, volume->length), what_was_done(volume, options->mode));
	print_figures(volume, with_after);
	if (options->verbose)
		print_details(volume, with_after);
	if (options->mode != MODE_DEFRAG) /* they may be known for another file's sake */
		print_worst(outcome, volume, options->verbose);
	print_stays(volume, options->verbose);
	print_conclusion(volume, options->mode, selection_selects(&options->selection));
}

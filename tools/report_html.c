/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/report_html.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "report_assets.h"
#include "tools/html.h"
#include "tools/picture.h"
#include "tools/score.h"
#include "tools/text.h"

#define PLOT_SCALE 3
#define ARROW      " \xe2\x86\x92 "

/* ---- small things ---- */

static void put_number(FILE *file, uint64_t value)
{
	char number[TEXT_NUMBER_MAX];
	fputs(text_number(number, value), file);
}

static void put_bytes(FILE *file, uint64_t bytes)
{
	char number[TEXT_NUMBER_MAX];
	fputs(text_bytes(number, bytes), file);
}

typedef void (*put_value)(FILE *file, uint64_t value);

/* A figure; before it what it was, if that is something else. */
static void tile(FILE *file, const char *name, put_value put, uint64_t before, uint64_t after)
{
	fprintf(file, "<div><dt>%s</dt><dd>", name);
	if (before != after) {
		fputs("<span class=\"was\">", file);
		put(file, before);
		fputs(ARROW "</span>", file);
	}
	put(file, after);
	fputs("</dd></div>\n", file);
}

static void cell_number(FILE *file, put_value put, uint64_t value)
{
	fprintf(file, "<td class=\"n\" data-n=\"%" PRIu64 "\">", value);
	put(file, value);
	fputs("</td>", file);
}

static void cell_known(FILE *file, put_value put, uint64_t value, bool known)
{
	if (known)
		cell_number(file, put, value);
	else
		fputs("<td></td>", file);
}

static void cell_text(FILE *file, const char *class, const char *text, const char *more)
{
	fprintf(file, "<td class=\"%s\"><bdi>", class);
	html_text(file, text);
	html_text(file, more);
	fputs("</bdi></td>", file);
}

static void table_start(FILE *file, const char *class, const char *label, const char *head)
{
	fprintf(file,
	        "<div class=\"table tall\" tabindex=\"0\" role=\"region\" aria-label=\"%s\">\n<table class=\"%s\">\n"
	        "<thead><tr>%s</tr></thead>\n<tbody>\n",
	        label, class, head);
}

static void table_end(FILE *file)
{
	fputs("</tbody></table></div>\n", file);
}

static void put_time(FILE *file, int64_t unix_s)
{
	char text[64] = "?";
	time_t when = (time_t)unix_s;
	struct tm parts;
	if (localtime_r(&when, &parts))
		strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S %z", &parts);
	fputs(text, file);
}

/* ---- what came of an image ---- */

struct verdict {
	const char *class, *text;
};

static struct verdict verdict_of(const struct outcome *outcome, enum defrag_mode mode)
{
	static const struct verdict changed[] = {[MODE_DEFRAG] = {"good", "defragmented"},
	                                         [MODE_DRY_RUN] = {"warn", "would be defragmented"},
	                                         [MODE_ANALYZE] = {"warn", "fragmented"}};
	static const struct verdict problems[] = {[EXIT_DONE] = {"bad", "failed"},
	                                          [EXIT_FAILED] = {"bad", "failed"},
	                                          [EXIT_REFUSED] = {"bad", "refused"},
	                                          [EXIT_IN_USE] = {"warn", "in use"},
	                                          [EXIT_DAMAGED] = {"bad", "damaged"}};
	switch (outcome_gist(outcome, mode)) {
	case GIST_CHANGED:
		return changed[mode];
	case GIST_NOTHING:
		return (struct verdict){"good", mode == MODE_ANALYZE ? "not fragmented" : "nothing to do"};
	case GIST_NO_VOLUME:
		return (struct verdict){"", "no NTFS volume"};
	default:
		return problems[outcome->exit_code];
	}
}

static void put_verdict(FILE *file, struct verdict verdict)
{
	fprintf(file, "<span class=\"verdict %s\">%s</span>", verdict.class, verdict.text);
}

static void put_problem(FILE *file, unsigned int volume, const char *cause, const char *remedy)
{
	if (!*cause)
		return;
	fputs("<div class=\"problem\">", file);
	if (volume)
		fprintf(file, "Volume %u: ", volume);
	html_text(file, cause);
	if (*remedy) {
		fputs("<br><strong>What to do:</strong> ", file);
		html_text(file, remedy);
	}
	fputs("</div>\n", file);
}

static void put_problems(FILE *file, const struct outcome *outcome)
{
	const struct pass_report *report = &outcome->report;
	put_problem(file, 0, outcome->cause, outcome->remedy);
	if (!outcome->reported)
		return;
	put_problem(file, 0, report->cause, report->remedy);
	for (size_t i = 0; i < report->volume_count; i++)
		if (report->volumes[i].result >= VOLUME_UNSUPPORTED)
			put_problem(file, report->volumes[i].number, report->volumes[i].cause,
			            report->volumes[i].remedy);
	if (report->redo_pending)
		put_problem(file, 0, "The last step could not be completed; nothing is lost.",
		            "the next open completes it; check the host's disk (dmesg, df)");
	if (outcome->in_use)
		fputs("<p class=\"faint\">In use while it was looked at: figures are approximate.</p>\n", file);
}

/* ---- pictures ---- */

static int put_map(FILE *file, const struct cluster_map *map, const char *when, unsigned int volume)
{
	char label[64];
	struct canvas *canvas;
	int error = canvas_svg_new(PICTURE_WIDTH, picture_height(map), &canvas);
	if (error)
		return error;
	snprintf(label, sizeof(label), "Clusters of volume %u, %s", volume, when);
	fprintf(file, "<h4>%s</h4>\n<figure class=\"map\">\n", when);
	picture_draw_clusters(canvas, map, 0, 0);
	error = canvas_svg_finish(canvas, label, false, file);
	fputs("</figure>\n", file);
	return error;
}

static void put_share(FILE *file, uint64_t part, uint64_t clusters)
{
	fprintf(file, "%.1f %%", 100.0 * (double)part / (double)clusters);
}

static void put_legend(FILE *file, const struct cluster_map *before, const struct cluster_map *after)
{
	uint64_t sums[2][CLUSTER_USES];
	picture_sum(before, 0, before->cells, sums[0]);
	picture_sum(after, 0, after->cells, sums[1]);
	fputs("<ul class=\"legend\">\n", file);
	for (int use = 0; use < CLUSTER_USES; use++) {
		fprintf(file,
		        "<li><svg viewBox=\"0 0 8 8\" aria-hidden=\"true\"><path class=\"c%d\" d=\"M0 "
		        "0h8v8h-8z\"/></svg>"
		        "%s <span class=\"faint\">",
		        use, picture_use_name((enum cluster_use)use));
		if (sums[0][use] != sums[1][use]) {
			put_share(file, sums[0][use], before->clusters);
			fputs(ARROW, file);
		}
		put_share(file, sums[1][use], after->clusters);
		fputs("</span></li>\n", file);
	}
	fputs("</ul>\n", file);
}

static const char *after_name(enum defrag_mode mode)
{
	return mode == MODE_DRY_RUN ? "After, as planned" : "After";
}

static int put_maps(FILE *file, const struct volume_picture *picture, unsigned int volume, enum defrag_mode mode)
{
	int error = put_map(file, picture->before, picture->after ? "Before" : "Now", volume);
	if (!error && picture->after)
		error = put_map(file, picture->after, after_name(mode), volume);
	put_legend(file, picture->before, picture->after ? picture->after : picture->before);
	return error;
}

static int put_plot(FILE *file, const struct image_map *map, const char *when)
{
	struct canvas *canvas;
	struct map_plot *plot;
	int error = map_plot_new(map, &plot);
	if (error || !plot)
		return error;
	error = canvas_svg_new(PLOT_SIDE * PLOT_SCALE, PLOT_SIDE * PLOT_SCALE, &canvas);
	if (!error) {
		fprintf(file, "<div><h4>%s: ", when);
		put_number(file, image_map_count(map));
		fputs(image_map_count(map) == 1 ? " extent</h4>\n<figure>\n" : " extents</h4>\n<figure>\n", file);
		picture_draw_plot(canvas, plot, 0, 0, PLOT_SCALE);
		error = canvas_svg_finish(canvas, "Image map: host offsets by guest offsets", false, file);
		fputs("</figure></div>\n", file);
	}
	free(plot);
	return error;
}

static int put_plots(FILE *file, const struct pass_report *report, enum defrag_mode mode)
{
	if (!report->map_before)
		return 0;
	fputs("<h3>Image map</h3>\n<p class=\"faint\">From left to right what the guest sees, from the bottom up the "
	      "host's file. "
	      "A diagonal is sequential on both sides; zcfs-defrag --settle brings it back.</p>\n<div "
	      "class=\"plots\">\n",
	      file);
	int error = put_plot(file, report->map_before, report->map_after ? "Before" : "Now");
	if (!error && report->map_after)
		error = put_plot(file, report->map_after, after_name(mode));
	fputs("</div>\n", file);
	return error;
}

/* ---- one volume ---- */

static void put_figures(FILE *file, const struct volume_report *volume)
{
	uint64_t cluster = volume->cluster_size;
	fputs("<dl class=\"tiles\">\n", file);
	tile(file, "Score, 0 is best", put_number, fragmentation_score(volume->excess_before, volume->clusters_mapped),
	     fragmentation_score(volume->excess_after, volume->clusters_mapped));
	tile(file, "Fragmented files", put_number, volume->fragmented_files_before, volume->fragmented_files_after);
	tile(file, "Fragments", put_number, volume->fragments_before, volume->fragments_after);
	tile(file, "Pieces of free space", put_number, volume->free_runs_before, volume->free_runs_after);
	tile(file, "Largest free piece", put_bytes, volume->largest_free_before * cluster,
	     volume->largest_free_after * cluster);
	tile(file, "Free", put_bytes, volume->clusters_free * cluster, volume->clusters_free * cluster);
	tile(file, "Files and folders", put_number, volume->files, volume->files);
	fputs("</dl>\n", file);
}

#define FILES_HEAD(after)                                                                                              \
	"<th scope=\"col\">Path</th><th scope=\"col\" class=\"n\">Pieces before</th><th scope=\"col\" "                \
	"class=\"n\">" after "</th><th scope=\"col\" class=\"n\">Size</th>"

static void put_file(FILE *file, const struct fragmented *row)
{
	fputs("<tr>", file);
	cell_text(file, "path", row->path, row->stream);
	cell_number(file, put_number, row->fragments_before);
	cell_number(file, put_number, row->fragments_after);
	cell_number(file, put_bytes, row->data_bytes);
	fputs("</tr>\n", file);
}

static void put_files(FILE *file, const struct outcome *outcome, unsigned int volume, enum defrag_mode mode)
{
	const struct file_list *files = &outcome->files;
	bool done = mode == MODE_DEFRAG && outcome->exit_code == EXIT_DONE;
	size_t shown = 0;
	for (size_t i = 0; i < files->count; i++) {
		if (files->rows[i].volume != volume)
			continue;
		if (shown++ == 0) {
			fputs("<h3>Files in most pieces</h3>\n", file);
			table_start(file, "files sortable", "Files in most pieces",
			            done ? FILES_HEAD("Pieces after") : FILES_HEAD("Pieces after a pass"));
		}
		put_file(file, &files->rows[i]);
	}
	if (shown)
		table_end(file);
	if (shown == REPORT_FILES)
		fputs("<p class=\"faint\">These are the first of them; --csv lists all.</p>\n", file);
}

static void put_stays(FILE *file, const struct volume_report *volume)
{
	size_t shown = volume->stay_count < REPORT_STAYS_MAX ? volume->stay_count : REPORT_STAYS_MAX;
	if (!shown)
		return;
	fputs("<h3>What stays in several pieces, and why</h3>\n", file);
	table_start(file, "stays sortable", "What stays in several pieces",
	            "<th scope=\"col\">Path</th><th scope=\"col\" class=\"n\">Pieces</th><th scope=\"col\">Why</th>");
	for (size_t i = 0; i < shown; i++) {
		fputs("<tr>", file);
		cell_text(file, "path", volume->stays[i].path, "");
		cell_number(file, put_number, volume->stays[i].fragments);
		cell_text(file, "", volume->stays[i].reason, "");
		fputs("</tr>\n", file);
	}
	table_end(file);
	if (volume->stay_count > shown) {
		fputs("<p class=\"faint\">And ", file);
		put_number(file, volume->stay_count - shown);
		fputs(" more.</p>\n", file);
	}
}

static int put_volume(FILE *file, const struct outcome *outcome, size_t index, enum defrag_mode mode)
{
	const struct volume_report *volume = &outcome->report.volumes[index];
	const struct volume_picture *picture = &outcome->report.pictures[index];
	if (!picture->before)
		return 0;
	fprintf(file, "<h3>Volume %u", volume->number);
	if (volume->label[0]) {
		fputs(": <bdi>", file);
		html_text(file, volume->label);
		fputs("</bdi>", file);
	}
	fputs(" <span class=\"faint\">NTFS, ", file);
	put_bytes(file, volume->length);
	fputs(", clusters of ", file);
	put_bytes(file, volume->cluster_size);
	fputs("</span></h3>\n", file);
	put_figures(file, volume);
	int error = put_maps(file, picture, volume->number, mode);
	put_files(file, outcome, volume->number, mode);
	put_stays(file, volume);
	return error;
}

/* ---- one image ---- */

static void put_history(FILE *file, const struct history *history)
{
	if (!history->count)
		return;
	fputs("<h3>Passes so far</h3>\n", file);
	table_start(
	        file, "history", "Passes so far",
	        "<th scope=\"col\">Begun</th><th scope=\"col\">What</th><th scope=\"col\" class=\"n\">Seconds</th>"
	        "<th scope=\"col\" class=\"n\">Attributes moved</th><th scope=\"col\" class=\"n\">Fragments before</th>"
	        "<th scope=\"col\" class=\"n\">after</th><th scope=\"col\" class=\"n\">Extents before</th>"
	        "<th scope=\"col\" class=\"n\">after</th><th scope=\"col\" class=\"n\">Metadata</th>");
	for (size_t i = 0; i < history->count; i++) {
		const struct run_record *run = &history->rows[i].run;
		fputs("<tr><td>", file);
		put_time(file, run->started_unix_s);
		fputs("</td>", file);
		cell_text(file, "", run->operation, "");
		fprintf(file, "<td class=\"n\">%.2f</td>", (double)run->duration_ms / 1000);
		bool counted = run->fragments_before > 0; /* an undo looks at no file */
		cell_known(file, put_number, run->files_moved, counted);
		cell_known(file, put_number, run->fragments_before, counted);
		cell_known(file, put_number, run->fragments_after, counted);
		cell_number(file, put_number, run->extents_before);
		cell_number(file, put_number, run->extents_after);
		cell_known(file, put_bytes, run->metadata_bytes, counted);
		fputs("</tr>\n", file);
	}
	table_end(file);
}

static void put_image_figures(FILE *file, const struct outcome *outcome)
{
	const struct pass_report *report = &outcome->report;
	fputs("<dl class=\"tiles\">\n", file);
	if (report->cost_known) {
		tile(file, "File data copied", put_bytes, report->data_bytes_copied, report->data_bytes_copied);
		tile(file, report->changed ? "Metadata written" : "Metadata to write", put_bytes,
		     report->metadata_bytes, report->metadata_bytes);
	}
	tile(file, "Extents of the image map", put_number, report->extents_before, report->extents_after);
	fprintf(file, "<div><dt>Time</dt><dd>%.2f s</dd></div>\n</dl>\n", outcome->seconds);
}

int report_html_image(FILE *file, const struct outcome *outcome, enum defrag_mode mode, size_t number)
{
	int error = 0;
	fprintf(file, "<section class=\"image\" id=\"image-%zu\">\n<header><h2><bdi>", number);
	html_text(file, outcome->image);
	fputs("</bdi></h2>", file);
	put_verdict(file, verdict_of(outcome, mode));
	fputs("</header>\n", file);
	put_problems(file, outcome);
	if (outcome->reported && outcome->report.pictures) {
		put_image_figures(file, outcome);
		for (size_t i = 0; !error && i < outcome->report.volume_count; i++)
			error = put_volume(file, outcome, i, mode);
		if (!error)
			error = put_plots(file, &outcome->report, mode);
	}
	put_history(file, &outcome->history);
	fputs("</section>\n", file);
	return error;
}

/* ---- the page ---- */

void report_html_index_start(FILE *file)
{
	fputs("<nav aria-label=\"Images\"><h3>Images</h3>\n", file);
	table_start(file, "index sortable", "Images",
	            "<th scope=\"col\">Image</th><th scope=\"col\">Result</th>"
	            "<th scope=\"col\" class=\"n\">Fragments before</th><th scope=\"col\" class=\"n\">Fragments "
	            "after</th>");
}

void report_html_index_row(FILE *file, const struct outcome *outcome, enum defrag_mode mode, size_t number)
{
	uint64_t before = 0, after = 0;
	for (size_t i = 0; outcome->reported && i < outcome->report.volume_count; i++) {
		before += outcome->report.volumes[i].fragments_before;
		after += outcome->report.volumes[i].fragments_after;
	}
	fprintf(file, "<tr><td class=\"path\"><a href=\"#image-%zu\"><bdi>", number);
	html_text(file, outcome->image);
	fputs("</bdi></a></td><td>", file);
	put_verdict(file, verdict_of(outcome, mode));
	fputs("</td>", file);
	cell_number(file, put_number, before);
	cell_number(file, put_number, after);
	fputs("</tr>\n", file);
}

void report_html_index_end(FILE *file)
{
	table_end(file);
	fputs("</nav>\n", file);
}

void report_html_head(FILE *file, enum defrag_mode mode)
{
	static const char *const titles[] = {[MODE_DEFRAG] = "Defragmentation",
	                                     [MODE_DRY_RUN] = "Defragmentation, tried without a change",
	                                     [MODE_ANALYZE] = "Analysis of fragmentation"};
	uint64_t nonce[2] = {0};
	/* Who cannot be told apart by a number is told apart by none: no script runs then, the page's own included. */
	bool numbered = getrandom(nonce, sizeof(nonce), 0) == sizeof(nonce);
	char number[40];
	snprintf(number, sizeof(number), "%016" PRIx64 "%016" PRIx64, nonce[0], nonce[1]);
	fprintf(file,
	        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
	        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'nonce-%s'; "
	        "script-src %s%s%s; base-uri 'none'; form-action 'none'\">\n"
	        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
	        "<meta name=\"referrer\" content=\"no-referrer\">\n<title>zcfs: %s</title>\n<style nonce=\"%s\">\n",
	        number, numbered ? "'nonce-" : "'none", numbered ? number : "", "'", titles[mode], number);
	canvas_svg_style(file);
	fputs(report_css, file);
	fprintf(file,
	        "</style>\n<script type=\"module\" nonce=\"%s\">\n%s</script>\n</head>\n<body>\n<main>\n"
	        "<h1>%s</h1>\n<p class=\"faint\">zcfs-defrag " ZCFS_VERSION ", ",
	        number, report_js, titles[mode]);
	put_time(file, time(NULL));
	fputs("</p>\n", file);
}

void report_html_foot(FILE *file)
{
	fputs("<footer>A cell of a map has eight rows, shared out among the uses of its clusters; each use that it has "
	      "is given one at "
	      "least.</footer>\n</main>\n</body>\n</html>\n",
	      file);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/picture_terminal.h"

#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tools/picture.h"

#define COLUMNS_DEFAULT 80
#define COLUMNS_MIN     20
#define INDENT          2
#define LINES_MAX       8
#define BLACK           16 /* of the 256 colours */

/* Letters and colours of the 256 that all terminals know (6 x 6 x 6 and greys), near those of tools/canvas.h. */
static const struct {
	char letter;
	unsigned char colour;
} styles[CLUSTER_USES] = {
        [CLUSTER_FREE] = {'.', 237},    [CLUSTER_FILE] = {'f', 32},        [CLUSTER_DIRECTORY] = {'d', 117},
        [CLUSTER_METADATA] = {'m', 36}, [CLUSTER_FRAGMENTED] = {'#', 208}, [CLUSTER_FIXED] = {'x', 245},
};

static unsigned int columns_of(FILE *file)
{
	struct winsize size;
	const char *variable = getenv("COLUMNS");
	long columns = variable ? strtol(variable, NULL, 10) : 0;
	if (columns <= 0 && ioctl(fileno(file), TIOCGWINSZ, &size) == 0)
		columns = size.ws_col;
	if (columns <= 0 || columns > CLUSTER_MAP_CELLS_MAX)
		columns = COLUMNS_DEFAULT;
	return columns < COLUMNS_MIN ? COLUMNS_MIN : (unsigned int)columns;
}

static bool locale_is_utf8(void)
{
	locale_t locale = newlocale(LC_CTYPE_MASK, "", (locale_t)0);
	if (!locale)
		return false;
	bool utf8 = strcmp(nl_langinfo_l(CODESET, locale), "UTF-8") == 0;
	freelocale(locale);
	return utf8;
}

struct picture_terminal picture_terminal_of(FILE *file)
{
	const char *no_colour = getenv("NO_COLOR"), *term = getenv("TERM");
	bool capable = isatty(fileno(file)) && term && *term && strcmp(term, "dumb") != 0;
	bool colour = capable && !(no_colour && *no_colour);
	return (struct picture_terminal){
	        .columns = columns_of(file), .colour = colour, .unicode = colour && locale_is_utf8()};
}

/* The use that a letter stands for: what is in pieces comes first if it is a quarter of the rows. */
static enum cluster_use foremost(const unsigned int rows[CLUSTER_USES])
{
	enum cluster_use most = CLUSTER_FREE;
	if (rows[CLUSTER_FRAGMENTED] >= PICTURE_ROWS / 4)
		return CLUSTER_FRAGMENTED;
	for (int use = 0; use < CLUSTER_USES; use++)
		if (rows[use] > rows[most])
			most = (enum cluster_use)use;
	return most;
}

/* The two uses that a character shows, the lower one first. What is in pieces is one of them. */
static void choose_two(const unsigned int rows[CLUSTER_USES], enum cluster_use two[2])
{
	unsigned int weight[CLUSTER_USES];
	memcpy(weight, rows, sizeof(weight));
	if (weight[CLUSTER_FRAGMENTED])
		weight[CLUSTER_FRAGMENTED] += PICTURE_ROWS;
	int first = 0, second = -1; /* in picture_order */
	for (int i = 1; i < CLUSTER_USES; i++)
		if (weight[picture_order[i]] > weight[picture_order[first]])
			first = i;
	for (int i = 0; i < CLUSTER_USES; i++)
		if (i != first && (second < 0 || weight[picture_order[i]] > weight[picture_order[second]]))
			second = i;
	two[0] = picture_order[first < second ? first : second];
	two[1] = picture_order[first < second ? second : first];
}

/* What the terminal writes with at the moment. */
struct pen {
	int ink, paper; /* -1: neither is set */
};

static void set_colours(FILE *file, struct pen *pen, int ink, int paper)
{
	if (pen->ink != ink || pen->paper != paper)
		fprintf(file, "\033[38;5;%d;48;5;%dm", ink, paper);
	*pen = (struct pen){ink, paper};
}

static void put_blocks(FILE *file, struct pen *pen, const unsigned int rows[CLUSTER_USES])
{
	static const char *const blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	enum cluster_use two[2];
	choose_two(rows, two);
	unsigned int low = rows[two[0]], high = rows[two[1]];
	unsigned int eighths = low + high ? (low * 8 + (low + high) / 2) / (low + high) : 0;
	set_colours(file, pen, styles[two[0]].colour, styles[two[1]].colour);
	fputs(blocks[eighths], file);
}

static void put_cell(FILE *file, struct picture_terminal terminal, struct pen *pen, const uint64_t counts[CLUSTER_USES])
{
	unsigned int rows[CLUSTER_USES];
	picture_rows(counts, rows);
	if (terminal.unicode) {
		put_blocks(file, pen, rows);
		return;
	}
	enum cluster_use use = foremost(rows);
	if (terminal.colour)
		set_colours(file, pen, BLACK, styles[use].colour);
	fputc(styles[use].letter, file);
}

static void end_colours(FILE *file, struct picture_terminal terminal, struct pen *pen)
{
	if (terminal.colour)
		fputs("\033[0m", file);
	*pen = (struct pen){-1, -1};
}

static void print_map(FILE *file, struct picture_terminal terminal, const struct cluster_map *map)
{
	uint32_t width = terminal.columns - INDENT, shown = width * LINES_MAX;
	if (shown > map->cells)
		shown = map->cells;
	struct pen pen = {-1, -1};
	for (uint32_t i = 0; i < shown; i++) {
		uint64_t sum[CLUSTER_USES];
		picture_sum(map, (uint32_t)((uint64_t)i * map->cells / shown),
		            (uint32_t)((uint64_t)(i + 1) * map->cells / shown), sum);
		if (i % width == 0)
			fprintf(file, "%*s", INDENT, "");
		put_cell(file, terminal, &pen, sum);
		if (i % width == width - 1 || i == shown - 1) {
			end_colours(file, terminal, &pen);
			fputc('\n', file);
		}
	}
}

static void print_legend(FILE *file, struct picture_terminal terminal, const struct cluster_map *before,
                         const struct cluster_map *after)
{
	uint64_t was[CLUSTER_USES], is[CLUSTER_USES];
	picture_sum(before, 0, before->cells, was);
	picture_sum(after, 0, after->cells, is);
	struct pen pen = {-1, -1};
	unsigned int column = 0;
	for (int use = 0; use < CLUSTER_USES; use++) {
		char text[64], change[16] = "";
		if (was[use] != is[use])
			snprintf(change, sizeof(change), "%.1f -> ",
			         100.0 * (double)was[use] / (double)before->clusters);
		int length = snprintf(text, sizeof(text), " %s %s%.1f %%", picture_use_name((enum cluster_use)use),
		                      change, 100.0 * (double)is[use] / (double)after->clusters);
		if (column && column + (unsigned int)length + INDENT + 1 > terminal.columns) {
			fputc('\n', file);
			column = 0;
		}
		fprintf(file, "%*s", INDENT, "");
		if (terminal.colour)
			set_colours(file, &pen, BLACK, styles[use].colour);
		fputc(terminal.unicode ? ' ' : styles[use].letter, file);
		end_colours(file, terminal, &pen);
		fputs(text, file);
		column += (unsigned int)length + INDENT + 1;
	}
	fputc('\n', file);
}

void picture_print(FILE *file, struct picture_terminal terminal, const struct pass_report *report, bool dry_run)
{
	for (size_t i = 0; report->pictures && i < report->volume_count; i++) {
		const struct volume_picture *picture = &report->pictures[i];
		if (!picture->before)
			continue;
		fprintf(file, "  volume %u %s:\n", report->volumes[i].number, picture->after ? "before" : "now");
		print_map(file, terminal, picture->before);
		if (picture->after) {
			fprintf(file, "  %s:\n", dry_run ? "after (planned)" : "after");
			print_map(file, terminal, picture->after);
		}
		print_legend(file, terminal, picture->before, picture->after ? picture->after : picture->before);
	}
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/picture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mapdb/cleanup.h"
#include "tools/text.h"

#define CELL       (PICTURE_ROWS + 1u) /* a cell and the line between cells, pixels */
#define MARGIN     24u
#define LINE       (CANVAS_TEXT_HEIGHT + 8)
#define PLOT_SCALE 3u
#define SWATCH     CANVAS_TEXT_HEIGHT

const enum cluster_use picture_order[CLUSTER_USES] = {CLUSTER_FIXED, CLUSTER_METADATA,   CLUSTER_DIRECTORY,
                                                      CLUSTER_FILE,  CLUSTER_FRAGMENTED, CLUSTER_FREE};

const struct shade canvas_shades[COLOURS] = {
        [CLUSTER_FREE] = {0xdfe3e8, 0x2b333d},       [CLUSTER_FILE] = {0x2f7fc1, 0x3d8fd6},
        [CLUSTER_DIRECTORY] = {0x7cc4ee, 0xa5dafa},  [CLUSTER_METADATA] = {0x009e73, 0x1fbf92},
        [CLUSTER_FRAGMENTED] = {0xd55e00, 0xff8a3d}, [CLUSTER_FIXED] = {0x4a5160, 0x8d96a5},
        [COLOUR_PLOT_1] = {0xaacbe8, 0x27496b},      [COLOUR_PLOT_2] = {0x74a9d8, 0x3467a0},
        [COLOUR_PLOT_3] = {0x2f7fc1, 0x4a90d9},      [COLOUR_PLOT_4] = {0x0d4f8b, 0x9cd0ff},
        [COLOUR_PAPER] = {0xffffff, 0x14181d},       [COLOUR_FRAME] = {0xeef1f4, 0x1e242c},
        [COLOUR_INK] = {0x1b1f24, 0xe6e9ed},
};

const char *picture_use_name(enum cluster_use use)
{
	static const char *const names[CLUSTER_USES] = {
	        [CLUSTER_FREE] = "free",         [CLUSTER_FILE] = "files",
	        [CLUSTER_DIRECTORY] = "folders", [CLUSTER_METADATA] = "NTFS metadata",
	        [CLUSTER_FIXED] = "immovable",   [CLUSTER_FRAGMENTED] = "in several pieces",
	};
	return names[use];
}

void picture_rows(const uint64_t counts[CLUSTER_USES], unsigned int rows[CLUSTER_USES])
{
	unsigned int left = PICTURE_ROWS;
	for (int use = 0; use < CLUSTER_USES; use++) {
		rows[use] = counts[use] != 0;
		left -= rows[use];
	}
	for (; left; left--) {
		int most = -1;
		for (int use = 0; use < CLUSTER_USES; use++) {
			if (rows[use] && (most < 0 || (unsigned __int128)counts[use] * rows[most] >
			                                      (unsigned __int128)counts[most] * rows[use]))
				most = use;
		}
		if (most < 0)
			return;
		rows[most]++;
	}
}

void picture_sum(const struct cluster_map *map, uint32_t first, uint32_t end, uint64_t sum[CLUSTER_USES])
{
	memset(sum, 0, CLUSTER_USES * sizeof(*sum));
	for (uint32_t cell = first; cell < end; cell++)
		for (int use = 0; use < CLUSTER_USES; use++)
			sum[use] += map->counts[cell][use];
}

/* ---- parts ---- */

unsigned int picture_height(const struct cluster_map *map)
{
	return (map->cells + PICTURE_COLUMNS - 1) / PICTURE_COLUMNS * CELL - 1;
}

void picture_draw_clusters(struct canvas *canvas, const struct cluster_map *map, unsigned int left, unsigned int top)
{
	for (uint32_t cell = 0; cell < map->cells; cell++) {
		unsigned int rows[CLUSTER_USES], x = left + cell % PICTURE_COLUMNS * CELL;
		unsigned int y = top + cell / PICTURE_COLUMNS * CELL + PICTURE_ROWS;
		picture_rows(map->counts[cell], rows);
		for (size_t i = 0; i < CLUSTER_USES; i++) {
			enum cluster_use use = picture_order[i];
			y -= rows[use];
			if (rows[use])
				canvas->fill(canvas, (enum colour)use, x, y, PICTURE_ROWS, rows[use]);
		}
	}
}

void picture_draw_plot(struct canvas *canvas, const struct map_plot *plot, unsigned int left, unsigned int top,
                       unsigned int scale)
{
	canvas->fill(canvas, COLOUR_FRAME, left, top, PLOT_SIDE * scale, PLOT_SIDE * scale);
	for (unsigned int host = 0; host < PLOT_SIDE; host++) {
		for (unsigned int guest = 0; guest < PLOT_SIDE; guest++) {
			unsigned int level = map_plot_level(plot, guest, host);
			if (level)
				canvas->fill(canvas, (enum colour)(COLOUR_PLOT_1 + level - 1), left + guest * scale,
				             top + (PLOT_SIDE - 1 - host) * scale, scale, scale);
		}
	}
}

/* ---- a page ---- */

int picture_page_init(struct picture_page *page, const char *title, const struct pass_report *report)
{
	const struct image_map *maps[] = {report->map_before, report->map_after};
	*page = (struct picture_page){.title = title, .report = report};
	for (int i = 0; i < 2; i++) {
		int error = maps[i] ? map_plot_new(maps[i], &page->plots[i]) : 0;
		if (error) {
			picture_page_release(page);
			return error;
		}
	}
	return 0;
}

void picture_page_release(struct picture_page *page)
{
	free(page->plots[0]);
	free(page->plots[1]);
}

/* Draws, or only measures without a canvas. */
struct pen {
	struct canvas *canvas;
	unsigned int y;
};

static void write_line(struct pen *pen, const char *text)
{
	if (pen->canvas)
		pen->canvas->text(pen->canvas, MARGIN, pen->y, text);
	pen->y += LINE;
}

static void add_clusters(struct pen *pen, const struct cluster_map *map, const char *when)
{
	write_line(pen, when);
	if (pen->canvas)
		picture_draw_clusters(pen->canvas, map, MARGIN, pen->y);
	pen->y += picture_height(map) + MARGIN;
}

static void add_volume(struct pen *pen, const struct volume_report *volume, const struct volume_picture *picture,
                       const char *after)
{
	char line[256], size[TEXT_NUMBER_MAX];
	cleanup_free char *label = text_escape(volume->label, true);
	snprintf(line, sizeof(line), "Volume %u%s%.100s, NTFS, %s", volume->number, label && *label ? " - " : "",
	         label ? label : "", text_bytes(size, volume->length));
	write_line(pen, line);
	add_clusters(pen, picture->before, picture->after ? "before" : "now");
	if (picture->after)
		add_clusters(pen, picture->after, after);
}

static void add_legend(struct pen *pen)
{
	unsigned int x = MARGIN;
	for (int use = 0; use < CLUSTER_USES; use++) {
		const char *name = picture_use_name((enum cluster_use)use);
		if (pen->canvas) {
			pen->canvas->fill(pen->canvas, (enum colour)use, x, pen->y, SWATCH, SWATCH);
			pen->canvas->text(pen->canvas, x + SWATCH + 6, pen->y, name);
		}
		x += SWATCH + 6 + CANVAS_TEXT_WIDTH * (unsigned int)strlen(name) + MARGIN;
	}
	pen->y += LINE + MARGIN;
}

static void add_plots(struct pen *pen, const struct picture_page *page, const char *after)
{
	const char *when[] = {page->plots[1] ? "before" : "now", after};
	write_line(pen, "Image map: the guest's order from left to right, the host's from the bottom up");
	for (unsigned int i = 0; pen->canvas && i < 2; i++) {
		unsigned int left = MARGIN + i * (PLOT_SIDE * PLOT_SCALE + 2 * MARGIN);
		if (!page->plots[i])
			continue;
		pen->canvas->text(pen->canvas, left, pen->y, when[i]);
		picture_draw_plot(pen->canvas, page->plots[i], left, pen->y + LINE, PLOT_SCALE);
	}
	pen->y += LINE + PLOT_SIDE * PLOT_SCALE + MARGIN;
}

static void draw_page(const struct picture_page *page, struct pen *pen)
{
	const char *after = page->dry_run ? "after (planned)" : "after";
	bool any = false;
	pen->y = MARGIN;
	write_line(pen, page->title);
	for (size_t i = 0; page->report->pictures && i < page->report->volume_count; i++) {
		const struct volume_picture *picture = &page->report->pictures[i];
		if (!picture->before)
			continue;
		add_volume(pen, &page->report->volumes[i], picture, after);
		any = true;
	}
	if (any)
		add_legend(pen);
	if (page->plots[0])
		add_plots(pen, page, after);
}

void picture_page_size(const struct picture_page *page, unsigned int *width, unsigned int *height)
{
	struct pen pen = {0};
	draw_page(page, &pen);
	*width = PICTURE_WIDTH + 2 * MARGIN;
	*height = pen.y;
}

void picture_page_draw(const struct picture_page *page, struct canvas *canvas)
{
	struct pen pen = {.canvas = canvas};
	unsigned int width, height;
	picture_page_size(page, &width, &height);
	canvas->fill(canvas, COLOUR_PAPER, 0, 0, width, height);
	draw_page(page, &pen);
}

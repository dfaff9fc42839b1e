/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * picture: pictures of volumes and of image maps, drawn from counts that are checked already: how they are laid out
 * and coloured, whatever they are drawn on (tools/canvas.h). On a terminal: tools/picture_terminal.h.
 *
 * A cell of a cluster map is a square of eight rows. Each use that the cell has clusters of has at least one of them;
 * the others are shared out by numbers of clusters (Adams's method). So what is in pieces is seen, however little it
 * is.
 */
#ifndef ZCFS_PICTURE_H
#define ZCFS_PICTURE_H

#include "defrag/cluster_map.h"
#include "defrag/guest_pass.h"
#include "tools/canvas.h"
#include "tools/map_plot.h"

#define PICTURE_ROWS    8   /* of a cell */
#define PICTURE_COLUMNS 128 /* cells beside each other */
#define PICTURE_WIDTH   (PICTURE_COLUMNS * (PICTURE_ROWS + 1) - 1)

/* From the bottom of a cell to its top. */
extern const enum cluster_use picture_order[CLUSTER_USES];

/* "free", "files", ... */
const char *picture_use_name(enum cluster_use use);
/* The rows of a cell that each use has. */
void picture_rows(const uint64_t counts[CLUSTER_USES], unsigned int rows[CLUSTER_USES]);
/* The counts of all cells from first to before end. */
void picture_sum(const struct cluster_map *map, uint32_t first, uint32_t end, uint64_t sum[CLUSTER_USES]);

/* Height of a cluster map with so many cells. */
unsigned int picture_height(const struct cluster_map *map);
/* PICTURE_WIDTH wide. */
void picture_draw_clusters(struct canvas *canvas, const struct cluster_map *map, unsigned int left, unsigned int top);
/* A square of PLOT_SIDE * scale. */
void picture_draw_plot(struct canvas *canvas, const struct map_plot *plot, unsigned int left, unsigned int top,
                       unsigned int scale);

/* A page with all that there is of one image: volumes, legend, image map; title is printable. It refers to the report.
 * init: 0 or -ENOMEM; the canvas to draw on has the size that is told. */
struct picture_page {
	const char *title;
	const struct pass_report *report;
	struct map_plot *plots[2]; /* before and after; NULL: none */
	bool dry_run;
};
int picture_page_init(struct picture_page *page, const char *title, const struct pass_report *report);
void picture_page_release(struct picture_page *page);
void picture_page_size(const struct picture_page *page, unsigned int *width, unsigned int *height);
void picture_page_draw(const struct picture_page *page, struct canvas *canvas);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * canvas: what a picture is drawn on: rectangles in a few colours and lines of text, as SVG or PNG.
 *
 * Coordinates are whole pixels from the top left corner; what is outside is cut off. The colours are
 * told apart by people who confuse red and green, too (after Okabe and Ito), by day and by night. An error is
 * remembered and returned by the function that writes.
 */
#ifndef ZCFS_CANVAS_H
#define ZCFS_CANVAS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "defrag/cluster_map.h"

/* The first ones are the uses of clusters. */
enum colour {
	COLOUR_PLOT_1 = CLUSTER_USES, /* dots, from a few bytes to many */
	COLOUR_PLOT_2,
	COLOUR_PLOT_3,
	COLOUR_PLOT_4,
	COLOUR_PAPER,
	COLOUR_FRAME, /* behind dots */
	COLOUR_INK,
	COLOURS
};

/* 0xrrggbb. */
struct shade {
	uint32_t light, dark;
};
extern const struct shade canvas_shades[COLOURS];

/* Height of a line of text, and the width of a character of it: the widest that there may be. */
#define CANVAS_TEXT_HEIGHT 14u
#define CANVAS_TEXT_WIDTH  12u

struct canvas {
	void (*fill)(struct canvas *canvas, enum colour colour, unsigned int x, unsigned int y, unsigned int width,
	             unsigned int height);
	/* Printable UTF-8; y is the top of the line. */
	void (*text)(struct canvas *canvas, unsigned int x, unsigned int y, const char *text);
};

/* All rectangles of one colour are one path, below all text. What is drawn is written to *svg, malloc'ed, by
 * canvas_svg_finish. styled: with the colours, as a document of its own; else an element for a page that has them as
 * classes "c0", "c1", ... and label (printable) says what it shows to who does not see it. */
int canvas_svg_new(unsigned int width, unsigned int height, struct canvas **out);
int canvas_svg_finish(struct canvas *canvas, const char *label, bool styled, FILE *file);
/* The colours of these classes, as CSS. */
void canvas_svg_style(FILE *file);

/* In the colours of the day. Characters outside of ASCII are question marks. */
int canvas_png_new(unsigned int width, unsigned int height, struct canvas **out);
int canvas_png_finish(struct canvas *canvas, FILE *file);

#endif

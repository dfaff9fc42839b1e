/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * report_html: what is known of images as one page of HTML that needs nothing else: no network, no other file.
 *
 * Everything from a guest or a path is escaped (tools/html.h), and no script runs but the page's own: its
 * Content-Security-Policy names a number that only this page's elements have. Errors of writing show in ferror().
 */
#ifndef ZCFS_REPORT_HTML_H
#define ZCFS_REPORT_HTML_H

#include <stdio.h>

#include "tools/outcome.h"

#define REPORT_FILES 200 /* of a volume, in its table of files in most pieces */

/* The page is head, an index with a row for each image (left out if there is one only), a section for each image, foot.
 */
void report_html_head(FILE *file, enum defrag_mode mode);
void report_html_index_start(FILE *file);
void report_html_index_row(FILE *file, const struct outcome *outcome, enum defrag_mode mode, size_t number);
void report_html_index_end(FILE *file);
/* number: from 1. 0 or -ENOMEM. */
int report_html_image(FILE *file, const struct outcome *outcome, enum defrag_mode mode, size_t number);
void report_html_foot(FILE *file);

#endif

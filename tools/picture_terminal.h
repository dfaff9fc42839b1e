/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * picture_terminal: cluster maps in a terminal, as wide as it is: two colours and an eighth-high block a character.
 * Without colour (NO_COLOR, TERM=dumb, a pipe) a letter; with colour but without UTF-8 a letter on it.
 */
#ifndef ZCFS_PICTURE_TERMINAL_H
#define ZCFS_PICTURE_TERMINAL_H

#include <stdbool.h>
#include <stdio.h>

#include "defrag/guest_pass.h"

struct picture_terminal {
	unsigned int columns;
	bool colour;  /* SGR, 256 colours */
	bool unicode; /* block elements */
};

/* What file, the environment and the locale allow. */
struct picture_terminal picture_terminal_of(FILE *file);

/* Maps of all volumes of a report, with a legend. */
void picture_print(FILE *file, struct picture_terminal terminal, const struct pass_report *report, bool dry_run);

#endif

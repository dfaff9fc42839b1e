/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * output: whether what a command has printed has got to where it should. Nobody dies of SIGPIPE (tools/stop.h).
 */
#ifndef ZCFS_OUTPUT_H
#define ZCFS_OUTPUT_H

#include <stdbool.h>
#include <stdio.h>

/* Writes out what file still holds. True: some of what was printed is lost. Not if its reader has gone away, as head(1)
 * and less(1) do when their user has seen enough. */
bool output_lost(FILE *file);
/* Also closes file. */
bool output_close(FILE *file);

#endif

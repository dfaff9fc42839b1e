/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What defrag_options.c (reading the command line) and defrag_options_check.c (which options go together) share.
 */
#ifndef ZCFS_DEFRAG_OPTIONS_INTERNAL_H
#define ZCFS_DEFRAG_OPTIONS_INTERNAL_H

#include "tools/defrag_options.h"

/* Prints what is wrong. The exit code. */
__attribute__((format(printf, 1, 2))) int wrong_usage(const char *format, ...);

const char *defrag_mode_name(enum defrag_mode mode);

/* 0; or the exit code: has printed what does not go together, or is missing. */
int defrag_options_check(const struct defrag_options *options);

#endif

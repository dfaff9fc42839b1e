/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * tap: the lines of a test that prints the Test Anything Protocol; for one source file.
 */
#ifndef ZCFS_TEST_TAP_H
#define ZCFS_TEST_TAP_H

#include <stdbool.h>
#include <stdio.h>

static int failures;
static int cases;

static void check(bool holds, const char *what)
{
	cases++;
	failures += !holds;
	printf("%sok %d - %s\n", holds ? "" : "not ", cases, what);
}

#endif

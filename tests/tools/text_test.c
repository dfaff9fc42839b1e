/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: whatever bytes a guest puts into a name, what is printed is UTF-8 and moves no cursor and turns no text
 * around.
 */
#include "tools/text.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;
static int cases;

static void expect(const char *what, const char *found, const char *wanted)
{
	bool same = found && strcmp(found, wanted) == 0;
	cases++;
	failures += !same;
	printf("%sok %d - %s\n", same ? "" : "not ", cases, what);
	if (!same)
		printf("# found \"%s\", wanted \"%s\"\n", found ? found : "(nothing)", wanted);
}

static void expect_escaped(const char *what, const char *text, bool controls, const char *wanted)
{
	char *escaped = text_escape(text, controls);
	expect(what, escaped, wanted);
	free(escaped);
}

int main(void)
{
	char buffer[TEXT_NUMBER_MAX];
	expect_escaped("text in several scripts stays", "ä€😀\\x", true, "ä€😀\\x");
	expect_escaped("terminal escapes are written out", "a\033[2Jb\t\n\x7f", true, "a\\x1b[2Jb\\x09\\x0a\\x7f");
	expect_escaped("C1 controls are written out", "\xc2\x9b", true, "\\x9b");
	expect_escaped("direction overrides are written out", "\xe2\x80\xaegpj.exe", true, "\\u202egpj.exe");
	expect_escaped("line separators are written out", "\xe2\x80\xa8", true, "\\u2028");
	expect_escaped("controls stay if asked for", "a\tb", false, "a\tb");
	expect_escaped("bytes that begin no character", "\xff\x80", true, "\\xff\\x80");
	expect_escaped("a character cut off at the end", "a\xf0\x9f\x98", true, "a\\xf0\\x9f\\x98");
	expect_escaped("overlong forms", "\xc0\x80\xe0\x80\x80", true, "\\xc0\\x80\\xe0\\x80\\x80");
	expect_escaped("surrogates", "\xed\xa0\x80", true, "\\xed\\xa0\\x80");
	expect_escaped("beyond the last character", "\xf4\x90\x80\x80", true, "\\xf4\\x90\\x80\\x80");
	expect_escaped("nothing", "", true, "");
	expect("zero", text_number(buffer, 0), "0");
	expect("three digits", text_number(buffer, 999), "999");
	expect("the greatest number", text_number(buffer, UINT64_MAX), "18,446,744,073,709,551,615");
	expect("bytes", text_bytes(buffer, 1023), "1023 bytes");
	expect("half units", text_bytes(buffer, 1536), "1.5 KiB");
	expect("the greatest size", text_bytes(buffer, UINT64_MAX), "16.0 EiB");
	printf("1..%d\n", cases);
	return failures != 0;
}

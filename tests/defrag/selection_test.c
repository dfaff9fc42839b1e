/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: paths and patterns mean what defrag/selection.h says, and no pattern takes long for any path.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "defrag/selection.h"
#include "tests/mapdb/check.h"

#define LONG_PATH 100000u

static unsigned int match(const struct selection *selection, const char *path, uint8_t *found)
{
	char copy[200];
	CHECK(strlen(path) < sizeof(copy));
	strcpy(copy, path);
	return selection_match(selection, copy, found);
}

static bool means(const struct selection *selection, const char *path, uint8_t *found)
{
	return selection_chooses(match(selection, path, found));
}

static void check_patterns(void)
{
	static const struct {
		const char *pattern, *path;
		bool match;
	} cases[] = {
	        {"*.vhd", "Users/x/BIG.VHD", true},
	        {"*.vhd", "\\Users\\x\\big.vhd", true},
	        {"*.vhd", "big.vhdx", false},
	        {"Users\\*", "Users/x/y/z", true},
	        {"/users/X/big.vhd", "Users\\x\\big.vhd", true},
	        {"users/x/", "Users/x/y/z", true},
	        {"users/x", "Users/xy", false},
	        {"x/big.vhd", "Users/x/big.vhd", false},
	        {"*/node_modules", "a/b/node_modules/c/d", true},
	        {"a/**/d", "a/b/c/d", true},
	        {"?.txt", "\xc3\xa9.txt", true},
	        {"\xc3\x84*", "\xc3\xa4rger", true},             /* A-umlaut in both cases */
	        {"\xd0\x96*", "\xd0\xb6\xd1\x83\xd0\xba", true}, /* Cyrillic */
	        {"[a-c]*", "beta", true},
	        {"[!a-c]*", "beta", false},
	        {"[[]x]", "[x]", true},
	        {"[x", "[x", true},
	        {"$Extend/*", "$Extend/$UsnJrnl", true},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct selection selection = {0};
		check_context("pattern %s, path %s", cases[i].pattern, cases[i].path);
		CHECK_IS(selection_add_pattern(&selection, &selection.only, cases[i].pattern), 0);
		CHECK_IS(means(&selection, cases[i].path, NULL), cases[i].match);
		selection_release(&selection);
	}
}

/* What is special in a pattern is a name like any other in a path. */
static void check_files(void)
{
	struct selection selection = {0};
	uint8_t found[3] = {0};
	CHECK(!selection_selects(&selection));
	CHECK_IS(selection_add_file(&selection, "a/[1] *?.txt"), 0);
	CHECK_IS(selection_add_file(&selection, "\\Users\\X"), 0);
	CHECK_IS(selection_add_file(&selection, "nowhere"), 0);
	CHECK(selection_selects(&selection) && selection_needs_names(&selection));
	CHECK(means(&selection, "A/[1] *?.TXT", found));
	CHECK(!means(&selection, "a/1 xx.txt", found));
	CHECK(found[0] && !found[1] && !found[2]);
	CHECK(means(&selection, "users/x/y", found));
	CHECK(found[1] && !found[2]);
	CHECK_IS(selection_add_pattern(&selection, &selection.only, "*.pst"), 0);
	CHECK_IS(selection_add_pattern(&selection, &selection.exclude, "Users/x/old"), 0);
	CHECK(means(&selection, "mail.pst", found));
	CHECK(!means(&selection, "Users/x/old/mail.pst", found));
	selection_release(&selection);
}

/* One name is enough to be meant, and one to be excluded, in whatever order they come. */
static void check_several_names(void)
{
	static const char *const names[] = {"boot/stage2", "backup/loader", "elsewhere"};
	struct selection selection = {0};
	unsigned int matches = 0;
	CHECK_IS(selection_add_pattern(&selection, &selection.exclude, "boot"), 0);
	CHECK_IS(match(&selection, names[0], NULL), SELECTION_MEANT | SELECTION_EXCLUDED);
	CHECK_IS(match(&selection, names[1], NULL), SELECTION_MEANT);
	CHECK_IS(selection_add_pattern(&selection, &selection.only, "backup"), 0);
	CHECK_IS(match(&selection, names[0], NULL), SELECTION_EXCLUDED);
	CHECK_IS(match(&selection, names[2], NULL), 0);
	for (size_t i = sizeof(names) / sizeof(*names); i--;)
		matches |= match(&selection, names[i], NULL);
	CHECK(!selection_chooses(matches));
	CHECK(selection_chooses(match(&selection, names[1], NULL) | match(&selection, names[2], NULL)));
	selection_release(&selection);
}

static void check_wrong(void)
{
	static const char *const wrong[] = {"", "/", "\\\\", "C:\\Users", "c:/x", "C:"};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct selection selection = {0};
		check_context("\"%s\"", wrong[i]);
		CHECK_IS(selection_add_file(&selection, wrong[i]), -EINVAL);
		CHECK_IS(selection_add_pattern(&selection, &selection.exclude, wrong[i]), -EINVAL);
		CHECK(!selection_selects(&selection));
		selection_release(&selection);
	}
}

static double seconds_for(const char *pattern, const char *path)
{
	struct selection selection = {0};
	char *copy = strdup(path);
	CHECK(copy);
	CHECK_IS(selection_add_pattern(&selection, &selection.only, pattern), 0);
	clock_t start = clock();
	CHECK(!selection_match(&selection, copy, NULL));
	double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
	selection_release(&selection);
	free(copy);
	return seconds;
}

/* Twice as many stars would square the time, and more, of a matcher that tries all ways. */
static void check_time(void)
{
	char *path = malloc(LONG_PATH + 1);
	CHECK(path);
	memset(path, 'a', LONG_PATH);
	path[LONG_PATH] = '\0';
	check_context("many stars");
	double few = seconds_for("*a*a*a*b", path), many = seconds_for("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", path);
	CHECK(many < 100 * (few + 0.01));
	check_context("no path");
	seconds_for("*[ab]?*[ab]?*[ab]?*[ab]?*[ab]?*[ab]?*[ab]?*c", path);
	free(path);
}

int main(void)
{
	check_patterns();
	check_files();
	check_several_names();
	check_wrong();
	check_time();
	return 0;
}

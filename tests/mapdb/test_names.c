/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: an image of any name that the host takes can be adopted, made plain in every way, removed and renamed over;
 * whatever call is the last of a tool that dies in it, what it leaves is reported, and is gone after cleaning, and the
 * image is the old one or the new one. An image whose name begins alike is not mistaken for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "io_fault.h"
#include "mapdb/check.h"
#include "mapdb/image.h"
#include "mapdb/image_internal.h"
#include "mapdb/plain.h"
#include "scenario.h"
#include "scramble.h"

#define BLOCK 4096u
#define SIZE  (6 * BLOCK)
#define OTHER "other.img"

static int base_fd, dir_fd;
static char image_name[NAME_LENGTH_MAX + 1];

/* ---- the names themselves ---- */

static bool is_utf8(const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p;) {
		int more = *p < 0x80 ? 0 : *p < 0xe0 ? 1 : *p < 0xf0 ? 2 : 3;

		for (p++; more > 0; more--, p++) {
			if ((*p & 0xc0) != 0x80)
				return false;
		}
	}
	return true;
}

static void check_form(const char *name, const char *suffix, enum hidden_kind kind)
{
	char entry[NAME_LENGTH_MAX + 1], other[NAME_LENGTH_MAX + 1];
	struct hidden_name hidden;
	size_t length = strlen(name);

	check_context("%zu bytes, %s", length, suffix);
	hidden_name_make(name, suffix, entry);
	CHECK(image_name_reserved(entry));
	CHECK(is_utf8(entry));
	CHECK(hidden_name_parse(entry, &hidden));
	CHECK_IS(hidden.kind, kind);
	CHECK_IS(hidden.cut, length + strlen("..zcfs-") + strlen(suffix) > NAME_LENGTH_MAX);
	CHECK(hidden_name_is_of(&hidden, name));
	CHECK(kind != HIDDEN_REPLACE || (hidden.new_inode == UINT64_MAX && hidden.old_inode == 1));
	CHECK(hidden.cut || !strcmp(hidden.name, name));
	for (size_t i = 0; i < length; i++) {
		strcpy(other, name);
		other[i] ^= 1;
		CHECK(!hidden_name_is_of(&hidden, other));
	}
	CHECK(!hidden.cut || !hidden_name_is_of(&hidden, hidden.name));
}

static void check_forms(void)
{
	static const char *const characters[] = {"n", "\u00fc", "\u20ac", "\U0001f4be"};
	char name[NAME_LENGTH_MAX + 1];

	for (size_t i = 0; i < sizeof characters / sizeof characters[0]; i++) {
		size_t size = strlen(characters[i]);

		for (size_t length = 1; length <= NAME_LENGTH_MAX; length++) {
			memset(name, 'x', length);
			name[length] = '\0';
			for (size_t at = length % size; at < length; at += size)
				memcpy(name + at, characters[i], size);
			check_form(name, "aZ09bY", HIDDEN_STAGING);
			check_form(name, REMOVED_MARK "aZ09bY", HIDDEN_REMOVED);
			check_form(name, PLAIN_MARK "aZ09bY", HIDDEN_PLAIN);
			check_form(name, REPLACE_MARK "ffffffffffffffff-1", HIDDEN_REPLACE);
		}
	}
	memset(name, 0xbf, NAME_LENGTH_MAX); /* no character begins */
	name[NAME_LENGTH_MAX] = '\0';
	struct hidden_name hidden;
	char entry[NAME_LENGTH_MAX + 1];
	hidden_name_make(name, "aZ09bY", entry);
	CHECK(hidden_name_parse(entry, &hidden) && hidden_name_is_of(&hidden, name));
}

static void check_foreign_forms(void)
{
	static const char *const names[] = {".a.zcfs-long-0123456789abcdef",
	                                    ".a.zcfs-long-0123456789abcdef-",
	                                    ".a.zcfs-long-x-aZ09bY",
	                                    ".a.zcfs-long--aZ09bY",
	                                    ".a.zcfs-long-1",
	                                    ".zcfs-long-0123456789abcdef-aZ09bY",
	                                    "a.zcfs-aZ09bY",
	                                    ".a.zcfs-removed-aZ09b"};
	struct hidden_name hidden;

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		check_context("%s", names[i]);
		CHECK(!hidden_name_parse(names[i], &hidden));
	}
}

/* ---- images ---- */

static int open_image(const struct io *io, const char *name, enum image_access access, struct image **image)
{
	return image_open(io, dir_fd, name, access, 0, 2000, image);
}

static int adopt(const struct io *io, const char *name)
{
	struct image *image;
	int rc = open_image(io, name, IMAGE_EXCLUSIVE, &image);

	if (rc < 0)
		return rc;
	rc = image_begin(image);
	if (rc == 0)
		rc = map_db_put_map(image->db, image->map);
	if (rc == 0)
		rc = image_commit(image);
	image_close(image);
	return rc;
}

static int make_plain(const struct io *io, enum plain_method method)
{
	const struct plain_options options = {.method = method};
	struct plain_report report;
	struct image *image;
	int rc = open_image(io, image_name, IMAGE_EXCLUSIVE, &image);

	if (rc < 0)
		return rc;
	rc = image_to_plain(image, &options, &report);
	image_close(image);
	return rc;
}

static int adopt_it(const struct io *io)
{
	return adopt(io, image_name);
}

static int exchange_it(const struct io *io)
{
	return make_plain(io, PLAIN_EXCHANGE);
}

static int reflink_it(const struct io *io)
{
	return make_plain(io, PLAIN_REFLINK);
}

static int settle_it(const struct io *io)
{
	return make_plain(io, PLAIN_SETTLE);
}

static int copy_it(const struct io *io)
{
	return make_plain(io, PLAIN_COPY);
}

static int remove_it(const struct io *io)
{
	return image_unlink_bundle(io, dir_fd, image_name);
}

static int replace_it(const struct io *io)
{
	return image_rename_replace(io, dir_fd, OTHER, dir_fd, image_name);
}

enum form { PLAIN, IDENTITY, SCRAMBLED, NOTHING };

static const struct action {
	const char *name;
	int (*run)(const struct io *io);
	enum form before, after; /* of the image */
	enum form other;         /* what takes its name */
} actions[] = {
        {"adopt", adopt_it, PLAIN, IDENTITY, NOTHING},
        {"plain by exchange", exchange_it, IDENTITY, PLAIN, NOTHING},
        {"plain by reflink", reflink_it, SCRAMBLED, PLAIN, NOTHING},
        {"plain in place", settle_it, SCRAMBLED, PLAIN, NOTHING},
        {"plain by copy", copy_it, SCRAMBLED, PLAIN, NOTHING},
        {"remove", remove_it, SCRAMBLED, NOTHING, NOTHING},
        {"file over bundle", replace_it, SCRAMBLED, PLAIN, PLAIN},
        {"bundle over file", replace_it, PLAIN, SCRAMBLED, SCRAMBLED},
        {"bundle over bundle", replace_it, IDENTITY, SCRAMBLED, SCRAMBLED},
};

/* Each byte of an image is this or one more. */
enum { OLD_BYTES = 10, OTHER_BYTES = 20, NEIGHBOUR_BYTES = 30 };

static void make_image(const char *name, uint8_t value, enum form form)
{
	uint8_t bytes[SIZE];

	for (size_t i = 0; i < SIZE; i++)
		bytes[i] = (uint8_t)(value + i / BLOCK % 2);
	write_file(dir_fd, "a.img", bytes, SIZE);
	if (form == SCRAMBLED)
		scramble(dir_fd, SIZE, BLOCK, 0);
	CHECK_IS(renameat(dir_fd, "a.img", dir_fd, name), 0);
	if (form == IDENTITY)
		CHECK_IS(adopt(&io_fast, name), 0);
}

/* Names that begin like the image's: the neighbours must stay. */
static void neighbour_names(char names[2][NAME_LENGTH_MAX + 1])
{
	size_t length = strlen(image_name);

	memcpy(names[0], image_name, length + 1);
	names[0][length - 1] ^= 1;
	memcpy(names[1], image_name, length + 1);
	names[1][200] = '\0'; /* as entries may have it */
}

static void prepare(const struct action *action)
{
	char neighbours[2][NAME_LENGTH_MAX + 1];

	neighbour_names(neighbours);
	empty_directory(dir_fd);
	make_image(image_name, OLD_BYTES, action->before);
	if (action->other != NOTHING)
		make_image(OTHER, OTHER_BYTES, action->other);
	for (int i = 0; i < 2; i++)
		make_image(neighbours[i], NEIGHBOUR_BYTES, IDENTITY);
}

/* The value of make_image; 0: there is no such image. */
static uint8_t value_of(const char *name, enum form *form)
{
	uint8_t bytes[SIZE];
	struct image *image;
	int rc = open_image(&io_fast, name, IMAGE_SHARED, &image);

	*form = NOTHING;
	if (rc == -ENOENT)
		return 0;
	CHECK_IS(rc, 0);
	CHECK_IS(image->state.size, SIZE);
	CHECK_IS(image_read(image, bytes, SIZE, 0), 0);
	*form = image->bundle_fd < 0 ? PLAIN : image_map_is_identity(image->map) ? IDENTITY : SCRAMBLED;
	image_close(image);
	return bytes[0] / 10 * 10;
}

struct listing {
	unsigned int hidden, others;
};

static int count_entry(void *context, const char *entry)
{
	struct listing *listing = context;

	if (image_name_reserved(entry))
		listing->hidden++;
	else if (strcmp(entry, ".") != 0 && strcmp(entry, "..") != 0)
		listing->others++;
	return 0;
}

static struct listing list(void)
{
	struct listing listing = {0};

	CHECK_IS(io_look_entries(dir_fd, count_entry, &listing), 0);
	return listing;
}

static unsigned int leftovers_in(struct check_report *report)
{
	unsigned int count = 0;

	for (size_t i = 0; i < report->count; i++) {
		const struct finding *finding = &report->findings[i];

		if (finding->kind != FINDING_LEFTOVER || !finding->repairable)
			continue;
		CHECK(strstr(finding->text, ": left by ")); /* behind the whole name */
		count++;
	}
	check_report_free(report);
	return count;
}

/* Those of a bundle are reported with it, all others with the directory. */
static void check_reports(unsigned int hidden)
{
	struct check_report report;
	struct stat status;
	unsigned int found = 0;

	if (fstatat(dir_fd, image_name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode)) {
		CHECK_IS(check_image(dir_fd, image_name, NULL, &report), 0);
		found = leftovers_in(&report);
	}
	CHECK_IS(check_leftovers(&io_look, dir_fd, false, &report), 0);
	CHECK_IS(found + leftovers_in(&report), hidden);
}

/* After a tool has died, and cleaning. */
static void judge(const struct action *action, bool done)
{
	char neighbours[2][NAME_LENGTH_MAX + 1];
	enum form form, other_form;
	unsigned int left;

	CHECK_IS(image_clean_stale(&io_fast, dir_fd, NULL, &left), 0);
	CHECK_IS(left, 0);
	uint8_t value = value_of(image_name, &form), other = value_of(OTHER, &other_form);
	bool replaces = action->other != NOTHING;
	bool is_new = action->after == NOTHING ? value == 0 : replaces ? value == OTHER_BYTES : form == action->after;
	if (done || is_new) {
		CHECK(is_new);
		CHECK_IS(form, action->after);
		CHECK_IS(other, 0);
	} else {
		CHECK_IS(value, OLD_BYTES);
		CHECK(form == action->before || (form == IDENTITY && action->run == settle_it));
		CHECK_IS(other_form, action->other);
	}
	CHECK(replaces || value == 0 || value == OLD_BYTES);
	struct listing listing = list();
	CHECK_IS(listing.hidden, 0);
	CHECK_IS(listing.others, 2 + (value != 0) + (other != 0));
	neighbour_names(neighbours);
	for (int i = 0; i < 2; i++) {
		CHECK_IS(value_of(neighbours[i], &form), NEIGHBOUR_BYTES);
		CHECK_IS(form, IDENTITY);
	}
}

/* The tool dies at call k. False: it was done before. */
static bool die_at(const struct action *action, size_t k, unsigned int *hidden)
{
	struct io_fault fault;
	struct image *image;

	check_context("%zu bytes: %s, dead from call %zu on", strlen(image_name), action->name, k);
	empty_directory(dir_fd);
	copy_directory(base_fd, dir_fd);
	io_fault_init(&fault, &io_fast, k, FAULT_DEAD, EIO);
	int rc = action->run(&fault.io);
	struct listing listing = list();
	check_reports(listing.hidden);
	*hidden += listing.hidden;
	/* Opening the image cleans up after it, too. */
	if (k % 2 && open_image(&io_fast, image_name, IMAGE_EXCLUSIVE, &image) == 0)
		image_close(image);
	judge(action, rc == 0);
	return fault.happened;
}

static void check_action(const struct action *action, bool with_deaths)
{
	unsigned int hidden = 0;

	check_context("%zu bytes: %s", strlen(image_name), action->name);
	prepare(action);
	if (with_deaths) {
		empty_directory(base_fd);
		copy_directory(dir_fd, base_fd);
	}
	CHECK_IS(action->run(&io_fast), 0);
	CHECK_IS(list().hidden, 0);
	judge(action, true);
	for (size_t k = 0; with_deaths && die_at(action, k, &hidden); k++)
		;
	CHECK(!with_deaths || hidden > 0);
}

/* ---- names that are cut alike ---- */

/* Two names with the same hash, as somebody could choose them. */
static void alike(char names[2][NAME_LENGTH_MAX + 1])
{
	static const char *const ends[] = {"7GrudY22Qy1C3tWc", "4UPytETV9P7Dvdog"};

	for (int i = 0; i < 2; i++) {
		memset(names[i], 'n', 239);
		strcpy(names[i] + 239, ends[i]);
	}
}

/* Nobody can tell whose the entry is: it stays until one of them has another name. */
static void check_alike(void)
{
	char names[2][NAME_LENGTH_MAX + 1], entry[NAME_LENGTH_MAX + 1];
	struct check_report report;
	unsigned int removed, left;

	check_context("%s", "names of one hash");
	alike(names);
	empty_directory(dir_fd);
	for (int i = 0; i < 2; i++)
		make_image(names[i], OLD_BYTES, SCRAMBLED);
	hidden_name_make(names[0], PLAIN_MARK "aZ09bY", entry);
	write_file(dir_fd, entry, "half", 4);
	hidden_name_make(names[1], PLAIN_MARK "aZ09bY", entry);
	CHECK_IS(faccessat(dir_fd, entry, F_OK, AT_SYMLINK_NOFOLLOW), 0); /* the same */
	CHECK_IS(image_clean_stale(&io_fast, dir_fd, &removed, &left), 0);
	CHECK(removed == 0 && left == 1);
	CHECK_IS(check_leftovers(&io_fast, dir_fd, true, &report), 0);
	CHECK_IS(leftovers_in(&report), 1);
	CHECK_IS(faccessat(dir_fd, entry, F_OK, AT_SYMLINK_NOFOLLOW), 0);

	CHECK_IS(renameat(dir_fd, names[0], dir_fd, "a.img"), 0);
	CHECK_IS(image_clean_stale(&io_fast, dir_fd, &removed, &left), 0);
	CHECK(removed == 1 && left == 0);
}

int main(void)
{
	/* Which kinds of entries have room for all of the name differs. */
	static const size_t lengths[] = {201, 207, 215, 225, 234, 235, 236, 237, 242, 243, 254, 255};
	size_t count = sizeof lengths / sizeof lengths[0];

	random_start();
	check_forms();
	check_foreign_forms();
	base_fd = scratch_directory();
	dir_fd = scratch_directory();
	for (size_t i = 0; i < count; i++) {
		memset(image_name, 'n', lengths[i]);
		image_name[lengths[i]] = '\0';
		bool with_deaths = i + 1 == count || lengths[i] == 235;
		for (size_t j = 0; j < sizeof actions / sizeof actions[0]; j++)
			check_action(&actions[j], with_deaths);
	}
	check_alike();
	return 0;
}

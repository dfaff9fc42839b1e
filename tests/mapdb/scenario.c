/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "scenario.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "mapdb/image.h"
#include "mapdb/image_discard.h"
#include "mapdb/image_settle.h"
#include "mapdb/plain.h"

#define SETTLE_BATCH 12288u /* bytes: several of them */

static const char *const image_names[2] = {"a.img", "b.img"};

void scenario_start(int dir_fd)
{
	uint8_t bytes[IMAGE_SIZE];

	for (unsigned int n = 0; n < 2; n++) {
		for (unsigned int i = 0; i < IMAGE_SIZE; i++)
			bytes[i] = (uint8_t)((n ? 'B' : 'A') + i / 512 * 3 + i % 7);
		/* The second image is mostly a hole, where redo must allocate. */
		write_file(dir_fd, image_names[n], bytes, n ? 4096 : IMAGE_SIZE);
		int fd = openat(dir_fd, image_names[n], O_WRONLY);
		CHECK_IS(ftruncate(fd, IMAGE_SIZE), 0);
		close(fd);
	}
}

void copy_bundle(int dir_fd, const char *from_name, const char *to_name)
{
	int from = openat(dir_fd, from_name, O_RDONLY | O_DIRECTORY);

	CHECK_IS(mkdirat(dir_fd, to_name, 0700), 0);
	int to = openat(dir_fd, to_name, O_RDONLY | O_DIRECTORY);
	copy_directory(from, to);
	close(from);
	close(to);
}

/* Redo for some ranges of the data file, with the undo that belongs to it. */
static int put_redo(struct image *image, uint8_t value)
{
	static const struct {
		uint64_t off;
		uint32_t length;
	} ranges[] = {{512, 40}, {700, 1}, {5000, 600}, {20480, 4096}, {IMAGE_SIZE - 3, 3}};
	static struct redo_blob redo, undo;
	uint8_t old[4096], new[4096];
	int rc = 0;

	redo.size = undo.size = 0;
	for (size_t i = 0; i < sizeof ranges / sizeof ranges[0] && rc == 0; i++) {
		rc = io_pread_full(image->io, image->data_fd, old, ranges[i].length, ranges[i].off);
		for (uint32_t j = 0; j < ranges[i].length; j++)
			new[j] = (uint8_t)(value + j * 5);
		redo_blob_put(&redo, ranges[i].off, i % 2 ? NULL : new, value, ranges[i].length);
		redo_blob_put(&undo, ranges[i].off, old, 0, ranges[i].length);
		if (rc == 0 && i % 2) {
			rc = map_db_put_redo(image->db, &redo, &undo);
			redo.size = undo.size = 0;
		}
	}
	return rc == 0 ? map_db_put_redo(image->db, &redo, &undo) : rc;
}

/* Reverses the order of the 4 KiB pieces in [0, IMAGE_SIZE), of which some are left as they are. */
static int put_permuted(struct image *image, unsigned int leave)
{
	struct map_move moves[IMAGE_SIZE / 4096];
	struct image_map *map;
	size_t count = 0, pieces = IMAGE_SIZE / 4096;

	for (size_t i = 0; i < pieces; i++) {
		if (i == leave || pieces - 1 - i == leave)
			continue;
		moves[count++] = (struct map_move){i * 4096, (pieces - 1 - i) * 4096, 4096};
	}
	int rc = image_map_permute(image->map, moves, count, &map);
	if (rc < 0)
		return rc;
	rc = map_db_put_map(image->db, map);
	image_map_unref(map);
	return rc;
}

static int put_identity(struct image *image)
{
	struct image_map *map;
	int rc = image_map_identity(image->state.size, &map);

	if (rc < 0)
		return rc;
	rc = map_db_put_map(image->db, map);
	image_map_unref(map);
	return rc;
}

static int put_history(struct image *image)
{
	struct run_record run = {.operation = "defrag", .options = "--pack", .files_moved = 1};
	struct file_record file = {.volume = 1, .record = 5, .path = "/a/b", .attribute = "$DATA", .bytes = 4096};
	int rc = map_db_put_run(image->db, &run);

	if (rc == 0)
		rc = map_db_put_file(image->db, &file);
	run.duration_ms = 7;
	return rc == 0 ? map_db_update_run(image->db, &run) : rc;
}

/* leave: see put_permuted; value 0: no redo; both 0: the identity */
static int change(const struct io *io, int dir_fd, const char *name, unsigned int leave, uint8_t value)
{
	struct image *image;
	int rc = image_open(io, dir_fd, name, IMAGE_EXCLUSIVE, 0, 2000, &image);

	if (rc < 0)
		return rc;
	rc = image_begin(image);
	if (rc == 0) {
		rc = leave || value ? put_permuted(image, leave) : put_identity(image);
		if (rc == 0 && value)
			rc = put_redo(image, value);
		if (rc == 0)
			rc = put_history(image);
		if (rc == 0)
			rc = image_commit(image);
		else
			image_rollback(image);
	}
	if (image->in_doubt) {
		CHECK_IS(rc, -EINPROGRESS);
		rc = IN_DOUBT;
	}
	image_close(image);
	return rc;
}

static int adopt_a(const struct io *io, int dir_fd)
{
	return change(io, dir_fd, "a.img", 1, 'x');
}

static int change_a(const struct io *io, int dir_fd)
{
	return change(io, dir_fd, "a.img", 3, 'y');
}

static int undo_a(const struct io *io, int dir_fd)
{
	struct run_record run = {.operation = "undo", .options = ""};
	struct image *image;
	int rc = image_open(io, dir_fd, "a.img", IMAGE_EXCLUSIVE, 0, 2000, &image);

	if (rc < 0)
		return rc;
	rc = image_undo(image, &run);
	if (image->in_doubt)
		rc = IN_DOUBT;
	image_close(image);
	return rc;
}

/* As the daemon does it: there is always room in the data file for all that the map in the database names. */
static int resize_a(const struct io *io, int dir_fd, uint64_t size)
{
	struct image *image;
	struct image_map *map = NULL;
	int rc = image_open(io, dir_fd, "a.img", IMAGE_EXCLUSIVE, 0, 2000, &image);

	if (rc < 0)
		return rc;
	bool grows = size > image_map_size(image->map);
	uint64_t host_off = (image_map_host_end(image->map) + 511) / 512 * 512;
	rc = image->overlay ? -EROFS : image_map_resize(image->map, size, host_off, &map);
	uint64_t end = rc == 0 && image_map_host_end(map) > IMAGE_SIZE ? image_map_host_end(map) : IMAGE_SIZE;
	if (rc == 0 && grows)
		rc = io->ftruncate(io, image->data_fd, end);
	if (rc == 0 && grows)
		rc = io->fdatasync(io, image->data_fd);
	if (rc == 0)
		rc = map_db_resize(&image->db, image->map, map);
	if (rc == 0 && !grows)
		(void)io->ftruncate(io, image->data_fd, end);
	if (rc < 0 && rc != -EINPROGRESS && grows) /* space that nothing names */
		(void)io->ftruncate(io, image->data_fd, IMAGE_SIZE);
	image_map_unref(map);
	image_close(image);
	return rc == -EINPROGRESS ? IN_DOUBT : rc;
}

static int grow_a(const struct io *io, int dir_fd)
{
	return resize_a(io, dir_fd, IMAGE_SIZE + 1000);
}

static int shrink_a(const struct io *io, int dir_fd)
{
	return resize_a(io, dir_fd, IMAGE_SIZE);
}

static int identity_a(const struct io *io, int dir_fd)
{
	return change(io, dir_fd, "a.img", 0, 0);
}

static int make_plain_a(const struct io *io, int dir_fd)
{
	struct image *image;
	int rc = image_open(io, dir_fd, "a.img", IMAGE_EXCLUSIVE, 0, 2000, &image);

	if (rc < 0)
		return rc;
	rc = image_make_plain(image);
	image_close(image);
	return rc;
}

static int adopt_b(const struct io *io, int dir_fd)
{
	return change(io, dir_fd, "b.img", 2, 'z');
}

static int replace_a_by_b(const struct io *io, int dir_fd)
{
	return image_rename_replace(io, dir_fd, "b.img", dir_fd, "a.img");
}

/* A plain file over a bundle: made here, outside of what is recorded as a step of its own. */
static int copy_a(const struct io *io, int dir_fd)
{
	static uint8_t bytes[IMAGE_SIZE];

	memset(bytes, 'c', sizeof bytes);
	int fd = io->open(io, dir_fd, "new", O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		return fd;
	int rc = io_pwrite_full(io, fd, bytes, sizeof bytes, 0);
	if (rc == 0)
		rc = io->fsync(io, fd);
	io->close(io, fd);
	if (rc == 0)
		rc = io->rename(io, dir_fd, "new", dir_fd, "b.img", RENAME_NOREPLACE);
	if (rc == 0)
		rc = io->fsync(io, dir_fd);
	if (rc < 0)
		io->unlink(io, dir_fd, "new", 0);
	return rc;
}

static int to_plain_a(const struct io *io, int dir_fd, enum plain_method method)
{
	const struct plain_options options = {.method = method};
	struct plain_report report;
	struct image *image;
	int rc = image_open(io, dir_fd, "a.img", IMAGE_EXCLUSIVE, 0, 2000, &image);

	if (rc < 0)
		return rc;
	rc = image_to_plain(image, &options, &report);
	image_close(image);
	return rc;
}

static int plain_file_a(const struct io *io, int dir_fd)
{
	return to_plain_a(io, dir_fd, PLAIN_REFLINK);
}

static int plain_in_place_a(const struct io *io, int dir_fd)
{
	return to_plain_a(io, dir_fd, PLAIN_SETTLE);
}

static int plain_copy_a(const struct io *io, int dir_fd)
{
	return to_plain_a(io, dir_fd, PLAIN_COPY);
}

static bool never(void *context)
{
	return false;
}

static int settle_a(const struct io *io, int dir_fd)
{
	const struct settle_options options = {.threshold = IMAGE_SIZE, .batch_bytes = SETTLE_BATCH};
	const struct settle_limits limits = {0};
	struct settle_progress progress = {0};
	struct image_settle *settle = NULL;
	struct image *image;
	int rc = image_open(io, dir_fd, "a.img", IMAGE_EXCLUSIVE, 0, 2000, &image);

	if (rc < 0)
		return rc;
	rc = image_settle_new(image, &options, never, NULL, &settle);
	while (rc == 0 && !progress.finished)
		rc = image_settle_step(settle, &limits, &progress);
	image_settle_free(settle);
	image_close(image);
	return rc;
}

/* A page and more, a few bytes, the end. */
static const struct {
	uint64_t off, length;
} guest_ranges[] = {{3000, 5000}, {12800, 20}, {IMAGE_SIZE - 700, 700}};

/* Something else than what is there. */
static int guest_writes(const struct io *io, struct image *image)
{
	uint8_t bytes[8192], value;
	int rc = image_read(image, &value, 1, guest_ranges[0].off);

	for (size_t i = 0; i < sizeof guest_ranges / sizeof guest_ranges[0]; i++) {
		uint64_t off = guest_ranges[i].off, end = off + guest_ranges[i].length;

		memset(bytes, (uint8_t)(value + 77 + i), sizeof bytes);
		while (off < end && rc == 0) {
			struct extent extent;

			image_map_lookup(image->map, off, end - off, &extent);
			rc = io_pwrite_full(io, image->data_fd, bytes, extent.length, extent.host_off);
			off += extent.length;
		}
	}
	return rc == 0 ? io->fdatasync(io, image->data_fd) : rc;
}

/* As the daemon does it. */
static int guest_discards(const struct io *io, struct image *image)
{
	struct map_db *db;
	int rc = image_db_open(image, 0, &db);

	if (rc == 0) {
		rc = map_db_drop_undo(db);
		map_db_close(db);
	}
	for (uint64_t off = 2048; off < 14336 && rc == 0;) {
		struct extent extent;

		image_map_lookup(image->map, off, 14336 - off, &extent);
		rc = io->fallocate(io, image->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, extent.host_off,
		                   extent.length);
		off += extent.length;
	}
	return rc == 0 ? io->fdatasync(io, image->data_fd) : rc;
}

static int as_guest(const struct io *io, int dir_fd, const char *name,
                    int (*act)(const struct io *io, struct image *image))
{
	struct image *image;
	int rc = image_open(io, dir_fd, name, IMAGE_SHARED, 0, 0, &image);

	if (rc < 0)
		return rc;
	rc = act(io, image);
	image_close(image);
	return rc;
}

int scenario_guest(const struct io *io, int dir_fd, const char *name)
{
	return as_guest(io, dir_fd, name, guest_writes);
}

static int guest_a(const struct io *io, int dir_fd)
{
	return as_guest(io, dir_fd, "a.img", guest_writes);
}

static int discard_a(const struct io *io, int dir_fd)
{
	return as_guest(io, dir_fd, "a.img", guest_discards);
}

/* For the guest that is not running: its free space. */
static int give_back(const struct io *io, int dir_fd, const char *name)
{
	static const struct guest_range ranges[] = {{1536, 7168}, {9216, 512}, {12288, 12288}, {IMAGE_SIZE - 512, 512}};
	const struct discard_options options = {.text = "--discard"};
	struct discard_report report;
	struct image *image;
	int rc = image_open(io, dir_fd, name, IMAGE_EXCLUSIVE, 0, 2000, &image);

	if (rc < 0)
		return rc;
	rc = image_discard(image, ranges, sizeof ranges / sizeof ranges[0], &options, &report);
	CHECK(rc < 0 || report.finished);
	image_close(image);
	return rc;
}

static int give_back_a(const struct io *io, int dir_fd)
{
	return give_back(io, dir_fd, "a.img");
}

static int give_back_b(const struct io *io, int dir_fd)
{
	return give_back(io, dir_fd, "b.img");
}

static int unlink_a(const struct io *io, int dir_fd)
{
	return image_unlink_bundle(io, dir_fd, "a.img");
}

static const struct step {
	const char *name;
	int (*run)(const struct io *io, int dir_fd);
	bool exact;
	bool guest;
	bool discard;
} steps[] = {
        {"adopt", adopt_a, true},
        {"the guest writes after adoption", guest_a, false, true},
        {"change", change_a, true},
        {"undo", undo_a, true},
        {"the guest writes after undo", guest_a, false, true},
        {"discard after undo", give_back_a, .discard = true},
        {"change again", change_a, true},
        {"the guest writes after a change", guest_a, false, true},
        {"grow", grow_a, true},
        {"the guest writes after growth", guest_a, false, true},
        {"the guest discards", discard_a, false, true},
        {"shrink", shrink_a, true},
        {"the guest writes after shrinking", guest_a, false, true},
        {"identity", identity_a, true},
        {"make plain", make_plain_a, false},
        {"adopt what was a bundle", adopt_a, true},
        {"plain in a file of its own", plain_copy_a, true},
        {"the guest writes to a plain image", guest_a, false, true},
        {"discard of a plain image", give_back_b, .discard = true},
        {"adopt the other", adopt_b, true},
        {"bundle over file", replace_a_by_b, false},
        {"new file", copy_a, false},
        {"file over bundle", replace_a_by_b, false},
        {"adopt once more", adopt_a, true},
        {"another new file", copy_a, false},
        {"adopt that", adopt_b, true},
        {"bundle over bundle", replace_a_by_b, false},
        {"plain file", plain_file_a, true},
        {"the guest writes to the new file", guest_a, false, true},
        {"adopt a third time", adopt_a, true},
        {"discard after a pass", give_back_a, .discard = true},
        {"the guest writes after the discard", guest_a, false, true},
        {"settle", settle_a, false},
        {"the guest writes after settling", guest_a, false, true},
        {"discard after settling", give_back_a, .discard = true},
        {"the guest discards after settling", discard_a, false, true},
        {"plain in place", plain_in_place_a, false},
        {"the guest writes after all came home", guest_a, false, true},
        {"adopt a fourth time", adopt_a, true},
        {"plain copy", plain_copy_a, true},
        {"adopt a fifth time", adopt_a, true},
        {"unlink", unlink_a, false},
};

const size_t scenario_steps = sizeof steps / sizeof steps[0];

size_t scenario_find(const char *name)
{
	size_t step = 0;

	while (strcmp(steps[step].name, name) != 0)
		CHECK(++step < scenario_steps);
	return step;
}

const char *scenario_name(size_t step)
{
	return steps[step].name;
}

bool scenario_exact(size_t step)
{
	return steps[step].exact;
}

bool scenario_by_guest(size_t step)
{
	return steps[step].guest;
}

bool scenario_discards(size_t step)
{
	return steps[step].discard;
}

int scenario_run(const struct io *io, int dir_fd, size_t step)
{
	return steps[step].run(io, dir_fd);
}

static void read_image(const struct io *io, int dir_fd, const char *name, struct view *view, size_t i)
{
	struct image *image;
	struct stat status;
	int rc = image_open(io, dir_fd, name, IMAGE_SHARED, 0, 0, &image);

	view->exists[i] = rc != -ENOENT;
	if (rc == -ENOENT)
		return;
	CHECK_IS(rc, 0);
	CHECK(!image->overlay && !image->state.redo_pending);
	CHECK_IS(fstat(image->data_fd, &status), 0);
	CHECK_IS(status.st_nlink, 1);
	view->size[i] = image->state.size;
	view->undo_recorded[i] = image->state.undo_recorded;
	CHECK(view->size[i] <= VIEW_SIZE);
	CHECK_IS(image_read(image, view->bytes[i], view->size[i], 0), 0);
	image_close(image);
}

void view_read(const struct io *io, int dir_fd, struct view *view)
{
	unsigned int left;

	memset(view, 0, sizeof *view);
	CHECK_IS(image_clean_stale(io, dir_fd, NULL, &left), 0);
	CHECK_IS(left, 0);
	for (size_t i = 0; i < 2; i++)
		read_image(io, dir_fd, image_names[i], view, i);
}

void view_classify(const struct io *io, int dir_fd, const struct view *view)
{
	struct stat status;
	enum name_kind kind;

	for (size_t i = 0; i < 2; i++) {
		int rc = image_classify(io, dir_fd, image_names[i], &kind, &status);

		CHECK_IS(rc, view->exists[i] ? 0 : -ENOENT);
		CHECK(rc < 0 || kind == NAME_BUNDLE || kind == NAME_FILE);
		if (rc == 0)
			CHECK_IS(status.st_size, view->size[i]);
	}
}

bool view_same(const struct view *a, const struct view *b)
{
	for (size_t i = 0; i < 2; i++) {
		if (a->exists[i] != b->exists[i] || a->size[i] != b->size[i] ||
		    memcmp(a->bytes[i], b->bytes[i], a->size[i]) != 0)
			return false;
	}
	return true;
}

bool view_between(const struct view *found, const struct view *old, const struct view *new)
{
	for (size_t i = 0; i < 2; i++) {
		if (found->exists[i] != old->exists[i] || found->size[i] != old->size[i])
			return false;
		for (size_t j = 0; j < found->size[i]; j++) {
			if (found->bytes[i][j] != old->bytes[i][j] && found->bytes[i][j] != new->bytes[i][j])
				return false;
		}
	}
	return true;
}

bool view_discarded(const struct view *found, const struct view *old, const struct view *new)
{
	for (size_t i = 0; i < 2; i++) {
		if (found->undo_recorded[i] && memcmp(found->bytes[i], old->bytes[i], sizeof old->bytes[i]) != 0)
			return false;
	}
	return view_between(found, old, new);
}

static int fast_open(const struct io *io, int dir_fd, const char *path, int flags, mode_t mode)
{
	return io_posix.open(&io_posix, dir_fd, path, flags, mode);
}

static int fast_close(const struct io *io, int fd)
{
	return close(fd);
}

static ssize_t fast_pread(const struct io *io, int fd, void *buffer, size_t length, uint64_t off)
{
	return io_posix.pread(io, fd, buffer, length, off);
}

static ssize_t fast_pwrite(const struct io *io, int fd, const void *buffer, size_t length, uint64_t off)
{
	return io_posix.pwrite(io, fd, buffer, length, off);
}

static int fast_sync(const struct io *io, int fd)
{
	return 0;
}

static int fast_ftruncate(const struct io *io, int fd, uint64_t size)
{
	return io_posix.ftruncate(io, fd, size);
}

static int fast_fallocate(const struct io *io, int fd, int mode, uint64_t off, uint64_t length)
{
	return io_posix.fallocate(io, fd, mode, off, length);
}

/* For directories in memory, where there are no clones. */
static int fast_clone(const struct io *io, int from_fd, uint64_t from_off, uint64_t length, int to_fd, uint64_t to_off)
{
	uint8_t bytes[IMAGE_SIZE];

	CHECK(length <= sizeof bytes);
	int rc = io_pread_full(io, from_fd, bytes, (size_t)length, from_off);
	return rc == 0 ? io_pwrite_full(io, to_fd, bytes, (size_t)length, to_off) : rc;
}

static int fast_link(const struct io *io, int old_dir_fd, const char *old_name, int new_dir_fd, const char *new_name)
{
	return io_posix.link(io, old_dir_fd, old_name, new_dir_fd, new_name);
}

static int fast_rename(const struct io *io, int old_dir_fd, const char *old_name, int new_dir_fd, const char *new_name,
                       unsigned int flags)
{
	return io_posix.rename(io, old_dir_fd, old_name, new_dir_fd, new_name, flags);
}

static int fast_unlink(const struct io *io, int dir_fd, const char *name, int flags)
{
	return io_posix.unlink(io, dir_fd, name, flags);
}

static int fast_mkdir(const struct io *io, int dir_fd, const char *name, mode_t mode)
{
	return io_posix.mkdir(io, dir_fd, name, mode);
}

const struct io io_fast = {
        .open = fast_open,
        .close = fast_close,
        .pread = fast_pread,
        .pwrite = fast_pwrite,
        .fdatasync = fast_sync,
        .fsync = fast_sync,
        .ftruncate = fast_ftruncate,
        .fallocate = fast_fallocate,
        .clone = fast_clone,
        .link = fast_link,
        .rename = fast_rename,
        .unlink = fast_unlink,
        .mkdir = fast_mkdir,
};

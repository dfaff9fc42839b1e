/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "power.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define SECTOR      512u
#define CHANGES_MAX 2048u
#define STALE_BYTE  0xa7 /* what the disk had there before */

/* A part of an operation that is on the disk or is not. */
struct change {
	const struct io_operation *operation;
	enum { WHOLE, PIECE, SIZE } part;
	uint64_t off, length; /* PIECE */
};

/* The disk at some moment: what is durable, and what is not yet. */
struct moment {
	struct disk durable;
	uint64_t sizes[DISK_NODES]; /* of files, with everything that is not durable yet */
	size_t change_count;
	struct change changes[CHANGES_MAX];
};

static bool is_sync(enum io_kind kind)
{
	return kind == IO_SYNC || kind == IO_SYNC_DATA;
}

static bool changes_contents(enum io_kind kind)
{
	return kind == IO_WRITE || kind == IO_TRUNCATE || kind == IO_ALLOCATE;
}

/* ---- applying changes ---- */

/* All or nothing: nothing if the names are not those that it was recorded with. */
static void apply_rename(struct disk *disk, const struct io_operation *op)
{
	if (disk_find(disk, op->directory, op->name) != op->node)
		return;
	uint32_t there = disk_find(disk, op->new_directory, op->new_name);
	if (op->flags & (RENAME_EXCHANGE | RENAME_NOREPLACE) && there != op->other)
		return;
	disk_set_name(disk, op->new_directory, op->new_name, op->node);
	disk_set_name(disk, op->directory, op->name, op->flags & RENAME_EXCHANGE ? op->other : DISK_NONE);
}

static void apply_name(struct disk *disk, const struct io_operation *op)
{
	uint32_t there = disk_find(disk, op->directory, op->name);

	switch (op->kind) {
	case IO_RENAME:
		apply_rename(disk, op);
		break;
	case IO_UNLINK:
		if (there == op->node)
			disk_set_name(disk, op->directory, op->name, DISK_NONE);
		break;
	default:
		if (there == DISK_NONE)
			disk_set_name(disk, op->directory, op->name, op->node);
	}
}

static void apply_allocate(struct disk *disk, const struct io_operation *op)
{
	CHECK(!(op->flags & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)));
	disk_allocate(disk, op->node, op->off, op->length);
	if (!(op->flags & FALLOC_FL_KEEP_SIZE))
		disk_grow(disk, op->node, op->off + op->length);
}

static void apply_piece(struct disk *disk, const struct io_operation *op, uint64_t off, uint64_t length)
{
	disk_write(disk, op->node, off, op->data ? op->data + (off - op->off) : NULL, length);
}

static void apply(struct disk *disk, const struct change *change)
{
	const struct io_operation *op = change->operation;

	if (!changes_contents(op->kind))
		apply_name(disk, op);
	else if (change->part == SIZE)
		disk_grow(disk, op->node, op->off + op->length);
	else if (change->part == PIECE)
		apply_piece(disk, op, change->off, change->length);
	else if (op->kind == IO_TRUNCATE)
		disk_resize(disk, op->node, op->length);
	else
		apply_allocate(disk, op);
}

/* ---- time passes ---- */

static void add_change(struct moment *moment, const struct change *change)
{
	CHECK(moment->change_count < CHANGES_MAX);
	moment->changes[moment->change_count++] = *change;
}

static void add_pieces(struct moment *moment, const struct io_operation *op)
{
	for (uint64_t off = op->off, end = op->off + op->length; off < end;) {
		uint64_t next = (off / DISK_PAGE + 1) * DISK_PAGE;

		next = next < end ? next : end;
		add_change(moment, &(struct change){op, PIECE, off, next - off});
		off = next;
	}
}

static bool makes_durable(const struct io_operation *sync, const struct io_operation *op)
{
	if (changes_contents(op->kind))
		return op->node == sync->node;
	return sync->kind == IO_SYNC &&
	       (op->directory == sync->node || (op->kind == IO_RENAME && op->new_directory == sync->node));
}

static bool names(const struct io_operation *op, uint32_t directory, const char *name)
{
	return (op->directory == directory && !strcmp(op->name, name)) ||
	       (op->kind == IO_RENAME && op->new_directory == directory && !strcmp(op->new_name, name));
}

/* With a rename from another directory goes what made that name there. */
static bool needed_by(const struct io_operation *op, const struct io_operation *later)
{
	return !changes_contents(op->kind) && later->kind == IO_RENAME &&
	       (names(op, later->directory, later->name) || names(op, later->new_directory, later->new_name));
}

static void make_durable(struct moment *moment, const struct io_operation *sync)
{
	static bool durable[CHANGES_MAX];
	size_t left = 0;

	for (size_t i = moment->change_count; i > 0; i--) {
		const struct io_operation *op = moment->changes[i - 1].operation;

		durable[i - 1] = makes_durable(sync, op);
		for (size_t j = i; j < moment->change_count && !durable[i - 1]; j++)
			durable[i - 1] = durable[j] && needed_by(op, moment->changes[j].operation);
	}
	for (size_t i = 0; i < moment->change_count; i++) {
		if (durable[i])
			apply(&moment->durable, &moment->changes[i]);
		else
			moment->changes[left++] = moment->changes[i];
	}
	moment->change_count = left;
}

static void pass(struct moment *moment, const struct io_operation *op)
{
	if (is_sync(op->kind)) {
		make_durable(moment, op);
	} else if (op->kind == IO_WRITE || (op->kind == IO_ALLOCATE && op->flags & FALLOC_FL_PUNCH_HOLE)) {
		add_pieces(moment, op);
		if (op->kind == IO_WRITE && op->off + op->length > moment->sizes[op->node]) {
			moment->sizes[op->node] = op->off + op->length;
			add_change(moment, &(struct change){op, SIZE, 0, 0});
		}
	} else {
		if (op->kind == IO_TRUNCATE)
			moment->sizes[op->node] = op->length;
		/* What has no name yet may have contents. */
		if (op->kind == IO_CREATE || op->kind == IO_MKDIR)
			disk_add_node(&moment->durable, op->node, op->kind == IO_MKDIR);
		add_change(moment, &(struct change){op, WHOLE, 0, 0});
	}
}

static void begin(const struct io_record *record, struct moment *moment)
{
	const struct disk *initial = io_record_initial(record);

	disk_copy(initial, &moment->durable);
	memset(moment->sizes, 0, sizeof moment->sizes);
	for (uint32_t i = 0; i < initial->node_count; i++)
		moment->sizes[i] = disk_size(initial, i);
	moment->change_count = 0;
}

void power_disk(const struct io_record *record, size_t count, enum power_pending pending, struct disk *disk)
{
	struct moment *moment = malloc(sizeof *moment);

	CHECK(moment);
	begin(record, moment);
	for (size_t i = 0; i < count; i++)
		pass(moment, io_record_get(record, i));
	for (size_t i = 0; i < moment->change_count && pending == POWER_KEPT; i++)
		apply(&moment->durable, &moment->changes[i]);
	*disk = moment->durable;
	free(moment);
}

/* ---- what may be left ---- */

struct enumeration {
	const struct io_record *record;
	const struct power_options *options;
	power_visit *visit;
	void *context;
	struct moment moment;
	size_t count;
	bool kept[CHANGES_MAX];
	bool stale;  /* a size without its bytes shows what was there before */
	size_t torn; /* a change; SIZE_MAX: none */
	enum { FIRST_SECTORS, SOME_SECTORS, FIRST_BYTES } tear;
	uint64_t tear_at; /* a number of sectors; a mask of them; a number of bytes */
	uint64_t random_state;
};

static uint64_t chance(struct enumeration *e, uint64_t limit) /* xorshift64* */
{
	e->random_state ^= e->random_state >> 12;
	e->random_state ^= e->random_state << 25;
	e->random_state ^= e->random_state >> 27;
	return (e->random_state * UINT64_C(2685821657736338717) >> 16) % limit;
}

static void apply_torn(const struct enumeration *e, struct disk *disk, const struct change *change)
{
	uint64_t end = change->off + change->length;

	if (e->tear == FIRST_BYTES) {
		apply_piece(disk, change->operation, change->off,
		            e->tear_at < change->length ? e->tear_at : change->length);
		return;
	}
	for (uint64_t off = change->off; off < end;) {
		uint64_t next = (off / SECTOR + 1) * SECTOR, sector = off % DISK_PAGE / SECTOR;

		next = next < end ? next : end;
		if (e->tear == FIRST_SECTORS ? off < change->off + e->tear_at * SECTOR : e->tear_at >> sector & 1)
			apply_piece(disk, change->operation, off, next - off);
		off = next;
	}
}

/* Only where there was nothing: what has been written once is overwritten in place, or elsewhere as a whole. */
static void apply_stale(struct disk *disk, const struct change *change)
{
	uint8_t bytes[DISK_PAGE];

	memset(bytes, STALE_BYTE, sizeof bytes);
	if (change->operation->kind == IO_WRITE && change->off >= disk_size(disk, change->operation->node))
		disk_write(disk, change->operation->node, change->off, bytes, change->length);
}

static bool look(struct enumeration *e)
{
	static struct disk disk;

	disk_copy(&e->moment.durable, &disk);
	for (size_t i = 0; i < e->moment.change_count; i++) {
		const struct change *change = &e->moment.changes[i];

		if (i == e->torn && change->part == PIECE)
			apply_torn(e, &disk, change);
		else if (e->kept[i])
			apply(&disk, change);
		else if (e->stale && change->part == PIECE)
			apply_stale(&disk, change);
	}
	bool more = e->visit(e->context, &disk, e->count);
	disk_release(&disk);
	return more;
}

static void keep(struct enumeration *e, size_t from, size_t to, bool kept)
{
	for (size_t i = from; i < to && i < e->moment.change_count; i++)
		e->kept[i] = kept;
}

static void keep_all(struct enumeration *e, bool kept)
{
	keep(e, 0, e->moment.change_count, kept);
}

/* All contents of a file, or all names in a directory. */
static void keep_group(struct enumeration *e, const struct io_operation *group, bool kept)
{
	for (size_t i = 0; i < e->moment.change_count; i++) {
		const struct io_operation *op = e->moment.changes[i].operation;

		if (changes_contents(op->kind) != changes_contents(group->kind))
			continue;
		if (changes_contents(op->kind) ? op->node == group->node : op->directory == group->directory)
			e->kept[i] = kept;
	}
}

static bool first_of_group(const struct enumeration *e, size_t index)
{
	const struct io_operation *group = e->moment.changes[index].operation;

	for (size_t i = 0; i < index; i++) {
		const struct io_operation *op = e->moment.changes[i].operation;

		if (changes_contents(op->kind) == changes_contents(group->kind) &&
		    (changes_contents(op->kind) ? op->node == group->node : op->directory == group->directory))
			return false;
	}
	return true;
}

/* All sizes, and none of the bytes. */
static bool look_at_stale(struct enumeration *e)
{
	bool more = true;

	for (size_t i = 0; i < e->moment.change_count; i++)
		e->kept[i] = e->moment.changes[i].part != PIECE;
	for (int stale = 0; stale < 2 && more; stale++) {
		e->stale = stale;
		more = look(e);
	}
	e->stale = false;
	return more;
}

/* Everything, nothing, and each file and directory alone. */
static bool look_at_groups(struct enumeration *e)
{
	size_t count = e->moment.change_count;

	for (int kept = 0; kept < 2; kept++) {
		keep_all(e, kept);
		if (!look(e))
			return false;
		for (size_t i = 0; i < count; i++) {
			if (!first_of_group(e, i))
				continue;
			keep_group(e, e->moment.changes[i].operation, !kept);
			if (!look(e))
				return false;
			keep_group(e, e->moment.changes[i].operation, kept);
		}
	}
	return look_at_stale(e);
}

/* Each change alone; all up to it. The rest is lost or kept. */
static bool look_at_singles(struct enumeration *e)
{
	size_t count = e->moment.change_count;

	for (int kept = 0; kept < 2; kept++) {
		keep_all(e, kept);
		for (size_t i = 0; i < count; i++) {
			e->kept[i] = !kept;
			if (!look(e))
				return false;
			e->kept[i] = kept;
		}
		for (size_t i = 0; i < count; i++) {
			e->kept[i] = !kept;
			if (!look(e))
				return false;
		}
	}
	return true;
}

static bool look_at_tears(struct enumeration *e, size_t index)
{
	uint64_t length = e->moment.changes[index].length, sectors = (length + SECTOR - 1) / SECTOR;
	bool more = true;

	e->torn = index;
	e->tear = FIRST_BYTES;
	e->tear_at = 1 + chance(e, length);
	more = look(e);
	if (more && sectors > 1) {
		e->tear = FIRST_SECTORS;
		e->tear_at = 1 + chance(e, sectors - 1);
		more = look(e);
		e->tear = SOME_SECTORS;
		e->tear_at = 1 + chance(e, 254);
		more = more && look(e);
	}
	e->torn = SIZE_MAX;
	return more;
}

/* Each page torn, while all others are there, or none of the later ones, or only the sizes. */
static bool look_at_torn(struct enumeration *e)
{
	for (size_t i = 0; i < e->moment.change_count; i++) {
		if (e->moment.changes[i].part != PIECE)
			continue;
		keep_all(e, true);
		if (!look_at_tears(e, i))
			return false;
		keep(e, i + 1, e->moment.change_count, false);
		if (!look_at_tears(e, i))
			return false;
		for (size_t j = 0; j < e->moment.change_count; j++)
			e->kept[j] = e->moment.changes[j].part != PIECE;
		if (!look_at_tears(e, i))
			return false;
	}
	return true;
}

static bool look_at_random(struct enumeration *e)
{
	bool more = true;

	for (unsigned int n = 0; n < e->options->random && more && e->moment.change_count > 1; n++) {
		uint64_t density = 1 + chance(e, 7);

		for (size_t i = 0; i < e->moment.change_count; i++)
			e->kept[i] = chance(e, 8) < density;
		e->stale = chance(e, 4) == 0;
		e->torn = chance(e, 2) ? chance(e, e->moment.change_count) : SIZE_MAX;
		e->tear = SOME_SECTORS;
		e->tear_at = 1 + chance(e, 254);
		more = look(e);
	}
	e->stale = false;
	e->torn = SIZE_MAX;
	return more;
}

static bool look_now(struct enumeration *e)
{
	if (!look_at_groups(e))
		return false;
	bool ends = e->count == e->options->to || is_sync(io_record_get(e->record, e->count)->kind);
	if (!ends)
		return true;
	if (!e->options->brief && !(look_at_singles(e) && look_at_torn(e)))
		return false;
	return look_at_random(e);
}

bool power_enumerate(const struct io_record *record, const struct power_options *options, power_visit *visit,
                     void *context)
{
	struct enumeration *e = malloc(sizeof *e);
	bool more = true;

	CHECK(e && options->to <= io_record_count(record));
	*e = (struct enumeration){
	        .record = record,
	        .options = options,
	        .visit = visit,
	        .context = context,
	        .torn = SIZE_MAX,
	        .random_state = options->seed | 1,
	};
	begin(record, &e->moment);
	for (; more; e->count++) {
		if (e->count >= options->from)
			more = look_now(e);
		if (e->count == options->to)
			break;
		if (e->count != options->forgotten)
			pass(&e->moment, io_record_get(record, e->count));
	}
	disk_release(&e->moment.durable);
	free(e);
	return more;
}

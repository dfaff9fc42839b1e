// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Indexes of ntfs-check: directories ($I30) and the view indexes ($SII, $SDH, $O, $Q, $R, ...). Every B-tree is walked
 * in order: blocks, their bitmap, the order of keys; entries of directories must name a live record that has that
 * $FILE_NAME, and at the end every $FILE_NAME must have been met.
 */
#include "ntfs_check.h"

#include <inttypes.h>
#include <stdlib.h>

#define MAX_DEPTH 40
#define MAX_INDEX (1ULL << 30)
#define FOUND     (1ULL << 63)

enum {
	COLLATE_BINARY = 0,
	COLLATE_FILE_NAME = 1,
	COLLATE_ULONG = 0x10,
	COLLATE_SID = 0x11,
	COLLATE_SECURITY_HASH = 0x12,
	COLLATE_ULONGS = 0x13
};

struct index {
	struct check *c;
	uint64_t base;
	uint32_t name, collation, block, unit;
	bool directory;
	uint8_t *blocks, *bitmap, *visited;
	uint64_t len, bitmap_len, nr_blocks;
	const uint8_t *prev; /* key of the entry before, in order */
	uint32_t prev_len;
};

static void bad(struct index *ix, const char *kind, const char *text, uint64_t value)
{
	char name[64];

	finding(ix->c, ix->base, kind, "index %s: %s 0x%" PRIx64, name_text(ix->c, ix->name, name, sizeof(name)), text,
	        value);
}

static int compare_ulongs(const uint8_t *a, uint32_t alen, const uint8_t *b, uint32_t blen)
{
	uint32_t n = (alen < blen ? alen : blen) / 4;

	for (uint32_t i = 0; i < n; i++)
		if (get32(a + 4 * i) != get32(b + 4 * i))
			return get32(a + 4 * i) < get32(b + 4 * i) ? -1 : 1;
	return (alen > blen) - (alen < blen);
}

static int compare_keys(struct index *ix, const uint8_t *a, uint32_t alen, const uint8_t *b, uint32_t blen)
{
	int cmp;

	switch (ix->collation) {
	case COLLATE_FILE_NAME:
		return compare_names(ix->c, a + FN_NAME, a[FN_LENGTH], b + FN_NAME, b[FN_LENGTH]);
	case COLLATE_ULONG:
	case COLLATE_ULONGS:
		return compare_ulongs(a, alen, b, blen);
	case COLLATE_SECURITY_HASH:
		return compare_ulongs(a, alen, b, blen); /* hash, then id */
	case COLLATE_BINARY:
		cmp = memcmp(a, b, alen < blen ? alen : blen);
		return cmp ? cmp : (alen > blen) - (alen < blen);
	default: /* SIDs: no rule that all writers agree on */
		return -1;
	}
}

static void check_directory_entry(struct index *ix, const uint8_t *e, const uint8_t *fn)
{
	struct check *c = ix->c;
	uint64_t ref = get64(e + IE_REF), rec = REF_RECORD(ref), parent = get64(fn + FN_PARENT);
	struct file_name *found;

	if (REF_RECORD(parent) != ix->base || REF_SEQ(parent) != c->recs[ix->base].seq) {
		bad(ix, "index-entry", "an entry names another parent:", parent);
	} else if (rec >= c->nr_recs || c->recs[rec].state != RS_BASE) {
		bad(ix, "index-entry", "an entry points to a record that is no file:", rec);
	} else if (c->recs[rec].seq != REF_SEQ(ref)) {
		bad(ix, "index-entry", "an entry has another sequence number than its record", rec);
	} else {
		found = file_name_find(c, file_name_hash(rec, fn), rec);
		if (!found)
			bad(ix, "index-entry", "an entry has a name that its record has not: record", rec);
		else if (found->rec & FOUND)
			bad(ix, "index-entry", "the same name twice: record", rec);
		else
			found->rec |= FOUND;
	}
}

static void check_key(struct index *ix, const uint8_t *e)
{
	const uint8_t *key = e + IE_KEY;
	uint32_t len = get16(e + IE_KEY_LEN);

	if (ix->directory && (len < FN_NAME || len != FN_NAME + 2u * key[FN_LENGTH] || !key[FN_LENGTH])) {
		bad(ix, "index-entry", "a malformed name, key length", len);
		return;
	}
	if (ix->prev && compare_keys(ix, ix->prev, ix->prev_len, key, len) >= 0)
		bad(ix, "index-order", "entries out of order at record", get64(e + IE_REF) & 0xffffffffffff);
	ix->prev = key;
	ix->prev_len = len;
	if (ix->directory)
		check_directory_entry(ix, e, key);
	else
		note_view_entry(ix->c, ix->base, ix->name, e);
}

/* The length of the entry at @e with @left bytes after it begins, or 0. */
static uint32_t entry_length(struct index *ix, const uint8_t *e, uint32_t left)
{
	uint32_t len = left >= IE_KEY ? get16(e + IE_LENGTH) : 0, flags, need;

	if (len < IE_KEY || len % 8 || len > left)
		return 0;
	flags = get16(e + IE_FLAGS);
	need = IE_KEY + (flags & IEF_END ? 0 : get16(e + IE_KEY_LEN)) + (flags & IEF_NODE ? 8 : 0);
	if (need > len || (ix->directory && (need + 7) / 8 * 8 != len))
		return 0;
	return len;
}

static void walk_block(struct index *ix, uint64_t vcn, unsigned depth);

/* @header is an index header with @size bytes; its entries lie within. */
static void walk_node(struct index *ix, const uint8_t *header, uint32_t size, unsigned depth)
{
	uint32_t ofs = get32(header + IH_ENTRIES), used = get32(header + IH_USED), len;
	bool has_children = header[IH_FLAGS] & 1;

	if (ofs < IH_SIZE || ofs % 8 || used > size || get32(header + IH_ALLOCATED) > size ||
	    used > get32(header + IH_ALLOCATED) || ofs > used) {
		bad(ix, "index", "malformed index header, entries at", ofs);
		return;
	}
	for (;; ofs += len) {
		const uint8_t *e = header + ofs;

		len = entry_length(ix, e, used - ofs);
		if (!len) {
			bad(ix, "index", "malformed entry or no end entry at offset", ofs);
			return;
		}
		if (!!(get16(e + IE_FLAGS) & IEF_NODE) != has_children)
			bad(ix, "index", "an entry's and its node's idea of children differ at offset", ofs);
		if (get16(e + IE_FLAGS) & IEF_NODE)
			walk_block(ix, get64(e + len - 8), depth + 1);
		if (get16(e + IE_FLAGS) & IEF_END)
			break;
		check_key(ix, e);
	}
	if (ofs + len != used)
		bad(ix, "index", "bytes after the end entry, which ends at offset", ofs + len);
}

static void walk_block(struct index *ix, uint64_t vcn, unsigned depth)
{
	uint64_t per = ix->block / ix->unit, no = vcn / per;
	uint8_t *b;

	if (vcn % per || no >= ix->nr_blocks || depth > MAX_DEPTH) {
		bad(ix, "index-vcn", "there is no index block at VCN", vcn);
		return;
	}
	if (ix->visited[no]) {
		bad(ix, "index-vcn", "two ways lead to the index block at VCN", vcn);
		return;
	}
	ix->visited[no] = 1;
	if (no / 8 >= ix->bitmap_len || !(ix->bitmap[no / 8] >> (no % 8) & 1))
		bad(ix, "index-bitmap", "marked as free is the index block at VCN", vcn);
	b = ix->blocks + no * ix->block;
	if (memcmp(b, "INDX", 4) || !ntfs_fixup_read(b, ix->block)) {
		bad(ix, "index-fixup", "bad signature or update sequence in the index block at VCN", vcn);
		return;
	}
	if (get64(b + IB_VCN) != vcn)
		bad(ix, "index-vcn", "another VCN is written in the index block at VCN", vcn);
	if (get32(b + IB_HEADER + IH_ALLOCATED) != ix->block - IB_HEADER)
		bad(ix, "index", "wrong allocated size in the index block at VCN", vcn);
	walk_node(ix, b + IB_HEADER, ix->block - IB_HEADER, depth);
}

/* Index blocks that nobody leads to must not be marked as used, nor any beyond the end. */
static void check_index_bitmap(struct index *ix)
{
	for (uint64_t i = 0; i < ix->bitmap_len * 8; i++) {
		if (!(ix->bitmap[i / 8] >> (i % 8) & 1) || (i < ix->nr_blocks && ix->visited[i]))
			continue;
		bad(ix, "index-bitmap", "marked as used and not part of the tree is index block", i);
	}
}

static bool load_index(struct index *ix, const struct value *root, const uint8_t *value)
{
	struct check *c = ix->c;
	struct group *g = find_group(c, ix->base, AT_INDEX_ALLOC, ix->name);
	uint32_t cs = c->boot.cluster_size;

	ix->collation = get32(value + IR_COLLATION);
	ix->block = get32(value + IR_BLOCK);
	ix->unit = ix->block >= cs ? cs : NTFS_STRIDE;
	if (ix->block < 512 || ix->block > 65536 || !ntfs_power_of_two(ix->block) ||
	    value[IR_CLUSTERS] != ix->block / ix->unit) {
		bad(ix, "index", "impossible index block size", ix->block);
		return false;
	}
	if (ix->directory && (ix->collation != COLLATE_FILE_NAME || get32(value) != AT_FILE_NAME))
		bad(ix, "index", "a directory sorted by rule", ix->collation);
	if (root->len - IR_HEADER < get32(value + IR_HEADER + IH_ALLOCATED) && root->len != IR_HEADER)
		bad(ix, "index", "wrong allocated size in the root:", get32(value + IR_HEADER + IH_ALLOCATED));
	ix->bitmap = load_attribute(c, ix->base, AT_BITMAP, ix->name, 1 << 24, &ix->bitmap_len);
	if (g) {
		ix->blocks = load_attribute(c, ix->base, AT_INDEX_ALLOC, ix->name, MAX_INDEX, &ix->len);
		if (!ix->blocks)
			bad(ix, "index", "$INDEX_ALLOCATION cannot be read, extents:", g->nr);
	}
	if (!!g != !!ix->bitmap && !(ix->bitmap && !ix->bitmap_len))
		bad(ix, "index", "$INDEX_ALLOCATION without $BITMAP or the reverse:", !!g);
	ix->nr_blocks = ix->len / ix->block;
	ix->visited = xrealloc(NULL, ix->nr_blocks, 1);
	memset(ix->visited, 0, ix->nr_blocks);
	return true;
}

static void check_index(struct check *c, const struct value *root)
{
	struct index ix = {.c = c, .base = root->base, .name = root->name};
	const struct name *n = (struct name *)c->names.p + root->name;
	uint8_t *value;

	if (root->base >= c->nr_recs || c->recs[root->base].state != RS_BASE)
		return;
	if (root->len < IR_HEADER + IH_SIZE) {
		bad(&ix, "index", "$INDEX_ROOT is too small:", root->len);
		return;
	}
	value = xrealloc(NULL, root->len, 1); /* the pool moves when a name is interned */
	memcpy(value, (uint8_t *)c->pool.p + root->pos, root->len);
	ix.directory = n->len == 4 && !memcmp((uint8_t *)c->pool.p + n->pos, "$\0I\0003\0000", 8);
	if (load_index(&ix, root, value)) {
		walk_node(&ix, value + IR_HEADER, (uint32_t)root->len - IR_HEADER, 0);
		check_index_bitmap(&ix);
	}
	free(ix.blocks);
	free(ix.bitmap);
	free(ix.visited);
	free(value);
}

void check_indexes(struct check *c)
{
	for (size_t i = 0; i < c->values.nr; i++) {
		struct value v = ((struct value *)c->values.p)[i];

		if (v.type == AT_INDEX_ROOT)
			check_index(c, &v);
	}
}

static int compare_u64(const void *a, const void *b)
{
	return (*(const uint64_t *)a > *(const uint64_t *)b) - (*(const uint64_t *)a < *(const uint64_t *)b);
}

void check_names_indexed(struct check *c)
{
	struct vec missing = {.item = sizeof(uint64_t)};
	uint64_t *recs;

	for (size_t i = 0; i < c->fn_slots; i++) {
		uint64_t rec = c->fns[i].rec;

		if (rec != NO_RECORD && !(rec & FOUND) && rec < c->nr_recs && c->recs[rec].state == RS_BASE)
			*(uint64_t *)vec_add(&missing, 1) = rec;
	}
	recs = missing.p;
	if (missing.nr)
		qsort(recs, missing.nr, sizeof(*recs), compare_u64);
	for (size_t i = 0; i < missing.nr; i++)
		finding(c, recs[i], "name-missing", "one of its names is in no directory");
	free(missing.p);
}

// SPDX-License-Identifier: GPL-2.0-or-later
/* The first pass of ntfs-check: one MFT record at a time, everything that can be judged without the others. */
#include "ntfs_check.h"

#include <inttypes.h>
#include <stdlib.h>

/* FNV-1a with a final mix; collisions only matter if somebody constructs them. */
static uint64_t hash_bytes(uint64_t h, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		h = (h ^ p[i]) * 0x100000001b3ULL;
	return h;
}

static uint64_t hash_mix(uint64_t h)
{
	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93ULL;
	return h ^ h >> 29;
}

static void grow_name_table(struct check *c)
{
	size_t slots = c->name_slots ? c->name_slots * 2 : 256;
	uint32_t *table = xrealloc(NULL, slots, sizeof(*table));

	memset(table, 0xff, slots * sizeof(*table));
	for (uint32_t i = 0; i < c->names.nr; i++) {
		struct name *n = (struct name *)c->names.p + i;
		size_t at = hash_mix(hash_bytes(1, (uint8_t *)c->pool.p + n->pos, 2 * n->len)) & (slots - 1);

		while (table[at] != UINT32_MAX)
			at = (at + 1) & (slots - 1);
		table[at] = i;
	}
	free(c->name_table);
	c->name_table = table;
	c->name_slots = slots;
}

/* The number of an attribute name; equal names have equal numbers and no name has 0. */
uint32_t intern_name(struct check *c, const uint8_t *utf16, uint32_t len)
{
	size_t at;
	struct name *n;

	if (c->names.nr * 2 >= c->name_slots)
		grow_name_table(c);
	if (!len && c->names.nr)
		return 0;
	for (at = hash_mix(hash_bytes(1, utf16, 2 * len)) & (c->name_slots - 1); c->name_table[at] != UINT32_MAX;
	     at = (at + 1) & (c->name_slots - 1)) {
		n = (struct name *)c->names.p + c->name_table[at];
		if (n->len == len && !memcmp((uint8_t *)c->pool.p + n->pos, utf16, 2 * len))
			return c->name_table[at];
	}
	c->name_table[at] = (uint32_t)c->names.nr;
	n = vec_add(&c->names, 1);
	n->pos = c->pool.nr;
	n->len = len;
	memcpy(vec_add(&c->pool, 2 * (size_t)len), utf16, 2 * (size_t)len);
	return c->name_table[at];
}

static uint16_t upcase(struct check *c, uint16_t ch)
{
	if (c->upcase)
		return c->upcase[ch];
	return ch >= 'a' && ch <= 'z' ? (uint16_t)(ch - 32) : ch;
}

/* NTFS's order of names: upper-cased first, then as they are. */
int compare_names(struct check *c, const uint8_t *a, uint32_t alen, const uint8_t *b, uint32_t blen)
{
	uint32_t n = alen < blen ? alen : blen;

	for (uint32_t i = 0; i < n; i++) {
		uint16_t x = upcase(c, get16(a + 2 * i)), y = upcase(c, get16(b + 2 * i));

		if (x != y)
			return x < y ? -1 : 1;
	}
	if (alen != blen)
		return alen < blen ? -1 : 1;
	for (uint32_t i = 0; i < n; i++) {
		uint16_t x = get16(a + 2 * i), y = get16(b + 2 * i);

		if (x != y)
			return x < y ? -1 : 1;
	}
	return 0;
}

/* What an index entry and a $FILE_NAME must agree on: record, parent, name space and name. */
uint64_t file_name_hash(uint64_t rec, const uint8_t *fn)
{
	uint64_t h = hash_mix(rec + 0x9e3779b97f4a7c15ULL) ^ get64(fn + FN_PARENT);

	return hash_mix(hash_bytes(hash_mix(h), fn + FN_LENGTH, 2 + 2 * (size_t)fn[FN_LENGTH]));
}

struct file_name *file_name_find(struct check *c, uint64_t hash, uint64_t rec)
{
	size_t at;

	if (!c->fn_slots)
		return NULL;
	for (at = hash & (c->fn_slots - 1); c->fns[at].rec != NO_RECORD; at = (at + 1) & (c->fn_slots - 1))
		if (c->fns[at].hash == hash && (c->fns[at].rec & INT64_MAX) == rec)
			return &c->fns[at];
	return NULL;
}

static void insert_file_name(struct check *c, uint64_t hash, uint64_t rec)
{
	size_t at;

	if (c->nr_fns * 2 >= c->fn_slots) {
		struct file_name *old = c->fns;
		size_t nr = c->fn_slots;

		c->fn_slots = nr ? nr * 2 : 1024;
		c->fns = xrealloc(NULL, c->fn_slots, sizeof(*c->fns));
		memset(c->fns, 0xff, c->fn_slots * sizeof(*c->fns));
		c->nr_fns = 0;
		for (size_t i = 0; i < nr; i++)
			if (old[i].rec != NO_RECORD)
				insert_file_name(c, old[i].hash, old[i].rec);
		free(old);
	}
	for (at = hash & (c->fn_slots - 1); c->fns[at].rec != NO_RECORD; at = (at + 1) & (c->fn_slots - 1))
		;
	c->fns[at].hash = hash;
	c->fns[at].rec = rec;
	c->nr_fns++;
}

static void check_file_name(struct check *c, uint64_t no, uint64_t base, const uint8_t *fn, uint32_t len)
{
	uint64_t hash;

	if (len < FN_NAME || len != FN_NAME + 2u * fn[FN_LENGTH] || !fn[FN_LENGTH] || fn[FN_NAMESPACE] > NS_WIN32_DOS) {
		finding(c, no, "file-name", "$FILE_NAME of %u bytes is malformed", len);
		return;
	}
	hash = file_name_hash(base, fn);
	if (file_name_find(c, hash, base))
		finding(c, no, "file-name", "the same $FILE_NAME twice");
	else
		insert_file_name(c, hash, base);
	if (base < c->nr_recs) {
		c->recs[base].names++;
		c->recs[base].parent = REF_RECORD(get64(fn + FN_PARENT));
		c->recs[base].dos_names += fn[FN_NAMESPACE] == NS_DOS;
	}
}

static void keep_value(struct check *c, uint64_t base, uint32_t type, uint32_t name, const uint8_t *p, uint32_t len)
{
	struct value *v = vec_add(&c->values, 1);

	*v = (struct value){.base = base, .type = type, .name = name, .pos = c->pool.nr, .len = len};
	memcpy(vec_add(&c->pool, len), p, len);
}

static void check_resident(struct check *c, uint64_t no, uint64_t base, const uint8_t *a, uint32_t len, uint32_t name)
{
	uint32_t type = get32(a), ofs = get16(a + A_VALUE_OFS), size = get32(a + A_VALUE_LEN);

	if (ofs % 8 || ofs < A_RES_HEADER || ofs > len || size > len - ofs ||
	    (a[A_NAME_LEN] && ofs < get16(a + A_NAME_OFS) + 2u * a[A_NAME_LEN])) {
		finding(c, no, "attribute", "%s: value at %u of %u bytes does not fit its %u bytes",
		        attr_label(c, type, name), ofs, size, len);
		return;
	}
	if (type == AT_INDEX_ALLOC)
		finding(c, no, "attribute", "%s is resident", attr_label(c, type, name));
	if (type == AT_FILE_NAME)
		check_file_name(c, no, base, a + ofs, size);
	if (type == AT_SI && size >= SI_SECURITY + 4 && base < c->nr_recs)
		c->recs[base].security_id = get32(a + ofs + SI_SECURITY);
	if (type == AT_INDEX_ROOT || type == AT_BITMAP || type == AT_LIST || type == AT_VOLUME_INFO ||
	    type == AT_OBJECT_ID || type == AT_REPARSE || (type == AT_DATA && base < 16 && !name))
		keep_value(c, base, type, name, a + ofs, size);
}

static bool decode_runs(struct check *c, struct extent *e, const uint8_t *p, const uint8_t *end, bool holes_allowed)
{
	struct ntfs_run run;
	uint64_t vcn = (uint64_t)e->lowest;
	int64_t lcn = 0;
	int rc;

	while ((rc = ntfs_pair_next(&p, end, &lcn, &run)) > 0) {
		if (run.len > INT64_MAX - vcn) {
			rc = -1;
			break;
		}
		run.vcn = vcn;
		vcn += run.len;
		if (run.lcn == LCN_IS_HOLE && !holes_allowed)
			finding(c, e->rec, "hole",
			        "%s: a hole at VCN 0x%" PRIx64 " and it is neither sparse nor compressed",
			        attr_label(c, e->type, e->name), run.vcn);
		if (run.lcn != LCN_IS_HOLE &&
		    (run.len > c->boot.nr_clusters || (uint64_t)run.lcn > c->boot.nr_clusters - run.len)) {
			finding(c, e->rec, "run-outside",
			        "%s: run at VCN 0x%" PRIx64 ", LCN 0x%" PRIx64 "+0x%" PRIx64 " leaves the volume",
			        attr_label(c, e->type, e->name), run.vcn, run.lcn, run.len);
			return false;
		}
		*(struct ntfs_run *)vec_add(&c->runs, 1) = run;
		e->nr_runs++;
	}
	if (rc < 0)
		finding(c, e->rec, "runlist", "%s: malformed mapping pairs", attr_label(c, e->type, e->name));
	else if (vcn != (uint64_t)e->highest + 1)
		finding(c, e->rec, "runlist", "%s: runs end at VCN 0x%" PRIx64 ", highest VCN is 0x%" PRIx64,
		        attr_label(c, e->type, e->name), vcn - 1, (uint64_t)e->highest);
	return !rc && vcn == (uint64_t)e->highest + 1;
}

static bool never_nonresident(uint32_t type)
{
	return type == AT_SI || type == AT_FILE_NAME || type == AT_VOLUME_NAME || type == AT_VOLUME_INFO ||
	       type == AT_INDEX_ROOT || type == AT_OBJECT_ID;
}

static void check_nonresident(struct check *c, uint64_t no, uint64_t base, const uint8_t *a, uint32_t len,
                              uint32_t name)
{
	uint32_t pairs = get16(a + A_PAIRS_OFS), need = A_NONRES_HEADER;
	struct extent e = {.base = base,
	                   .rec = no,
	                   .type = get32(a),
	                   .name = name,
	                   .flags = get16(a + A_FLAGS),
	                   .instance = get16(a + A_INSTANCE),
	                   .unit = a[A_UNIT],
	                   .lowest = (int64_t)get64(a + A_LOWEST),
	                   .highest = (int64_t)get64(a + A_HIGHEST),
	                   .first_run = c->runs.nr};
	bool has_comp = e.flags & (AF_SPARSE | AF_COMPRESSION_MASK) && !e.lowest;
	bool bad_clusters = base == 8 && e.type == AT_DATA && name; /* $BadClus:$Bad: holes without the flag */

	if (a[A_NAME_LEN] && get16(a + A_NAME_OFS) + 2u * a[A_NAME_LEN] > need)
		need = get16(a + A_NAME_OFS) + 2u * a[A_NAME_LEN];
	if (has_comp && need < A_COMP_HEADER)
		need = A_COMP_HEADER;
	if (pairs < need || pairs >= len || e.lowest < 0 || e.highest < e.lowest - 1) {
		finding(c, no, "attribute", "%s: malformed non-resident header", attr_label(c, e.type, name));
		return;
	}
	if (never_nonresident(e.type))
		finding(c, no, "attribute", "%s is non-resident", attr_label(c, e.type, name));
	if (!e.lowest) {
		e.alloc = get64(a + A_ALLOC);
		e.data = get64(a + A_DATA);
		e.init = get64(a + A_INIT);
		e.comp = has_comp ? get64(a + A_COMPSIZE) : e.alloc;
	}
	e.broken = !decode_runs(c, &e, a + pairs, a + len, e.flags & (AF_SPARSE | AF_COMPRESSION_MASK) || bad_clusters);
	*(struct extent *)vec_add(&c->extents, 1) = e;
}

/* @prev precedes @a in the record: types ascend, then names, then VCNs. */
static void check_order(struct check *c, uint64_t no, const uint8_t *prev, const uint8_t *a, uint32_t name)
{
	int cmp;

	if (get32(prev) != get32(a)) {
		if (get32(prev) > get32(a))
			finding(c, no, "order", "%s comes after type 0x%x", attr_label(c, get32(a), name), get32(prev));
		return;
	}
	cmp = compare_names(c, prev + get16(prev + A_NAME_OFS), prev[A_NAME_LEN], a + get16(a + A_NAME_OFS),
	                    a[A_NAME_LEN]);
	if (cmp > 0)
		finding(c, no, "order", "%s comes after a greater name", attr_label(c, get32(a), name));
	if (cmp)
		return;
	if (prev[A_NONRES] && a[A_NONRES]) {
		if ((int64_t)get64(prev + A_LOWEST) >= (int64_t)get64(a + A_LOWEST))
			finding(c, no, "order", "extents of %s are not in order", attr_label(c, get32(a), name));
	} else if (prev[A_NONRES] || a[A_NONRES] || get32(a) != AT_FILE_NAME) {
		finding(c, no, "duplicate", "%s exists twice", attr_label(c, get32(a), name));
	}
}

static void note_attribute(struct check *c, uint64_t no, uint64_t base, const uint8_t *a, uint32_t name)
{
	struct record *r = &c->recs[no];

	if (r->state == RS_BASE && get32(a) == AT_SI)
		r->has_si = true;
	if (base < c->nr_recs) {
		c->recs[base].has_object_id |= get32(a) == AT_OBJECT_ID;
		c->recs[base].has_reparse |= get32(a) == AT_REPARSE;
	}
	if (base < c->nr_recs && get32(a) == AT_INDEX_ROOT && a[A_NAME_LEN] == 4 &&
	    !memcmp(a + get16(a + A_NAME_OFS), "$\0I\0003\0000", 8))
		c->recs[base].has_root = true;
	if (r->state == RS_EXTENSION && get32(a) == AT_LIST)
		finding(c, no, "attribute-list", "an attribute list in an extension record");
	if (get32(a) != AT_LIST && (r->state == RS_EXTENSION || r->has_list))
		*(struct listed *)vec_add(&c->listed, 1) =
		        (struct listed){.base = base,
		                        .rec = no,
		                        .type = get32(a),
		                        .name = name,
		                        .instance = get16(a + A_INSTANCE),
		                        .lowest = a[A_NONRES] ? (int64_t)get64(a + A_LOWEST) : 0};
}

/* The attribute at @ofs of a record of @used bytes; its length, or 0 if the rest of the record makes no sense. */
static uint32_t check_attribute_header(struct check *c, uint64_t no, const uint8_t *buf, uint32_t ofs, uint32_t used)
{
	const uint8_t *a = buf + ofs;
	uint32_t len = used - ofs >= 16 ? get32(a + A_LENGTH) : 0;
	bool fits = len >= A_RES_HEADER && len % 8 == 0 && len <= used - ofs && a[A_NONRES] <= 1 &&
	            (!a[A_NONRES] || len >= A_NONRES_HEADER);

	if (!fits) {
		finding(c, no, "attribute", "attribute 0x%x at offset %u has impossible length %u", get32(a), ofs, len);
		return 0;
	}
	if (a[A_NAME_LEN] && (get16(a + A_NAME_OFS) < (a[A_NONRES] ? A_NONRES_HEADER : A_RES_HEADER) ||
	                      get16(a + A_NAME_OFS) + 2u * a[A_NAME_LEN] > len)) {
		finding(c, no, "attribute", "attribute 0x%x at offset %u: its name does not fit", get32(a), ofs);
		return 0;
	}
	if (!get32(a) || (get32(a) & 15) || (get32(a) > AT_LOGGED && get32(a) < 0x1000))
		finding(c, no, "attribute", "unknown attribute type 0x%x at offset %u", get32(a), ofs);
	return len;
}

static void check_instances(struct check *c, uint64_t no, const uint8_t *buf, const uint16_t *seen, uint32_t nr)
{
	uint16_t next = get16(buf + REC_NEXT_INSTANCE);

	for (uint32_t i = 0; i < nr; i++) {
		for (uint32_t k = 0; k < i; k++)
			if (seen[i] == seen[k])
				finding(c, no, "instance", "instance %u is used twice", seen[i]);
		if (seen[i] >= next)
			finding(c, no, "instance", "instance %u is not below the next one, %u", seen[i], next);
	}
}

static bool contains_list(const uint8_t *buf, uint32_t used)
{
	uint32_t len;

	for (uint32_t ofs = get16(buf + REC_ATTRS); ofs + 16 <= used; ofs += len) {
		len = get32(buf + ofs + A_LENGTH);
		if (get32(buf + ofs) == AT_LIST)
			return true;
		if (get32(buf + ofs) == AT_END || len < A_RES_HEADER || len > used - ofs)
			break;
	}
	return false;
}

static void check_attributes(struct check *c, uint64_t no, uint64_t base, const uint8_t *buf, uint32_t used)
{
	uint32_t ofs = get16(buf + REC_ATTRS), len, nr = 0, name;
	uint16_t instances[4096 / A_RES_HEADER + 1];
	const uint8_t *prev = NULL, *a;

	for (; ofs + 4 <= used && get32(buf + ofs) != AT_END; ofs += len) {
		a = buf + ofs;
		len = check_attribute_header(c, no, buf, ofs, used);
		if (!len)
			return;
		name = intern_name(c, a + get16(a + A_NAME_OFS), a[A_NAME_LEN]);
		instances[nr++] = get16(a + A_INSTANCE);
		note_attribute(c, no, base, a, name);
		if (prev)
			check_order(c, no, prev, a, name);
		if (a[A_NONRES])
			check_nonresident(c, no, base, a, len, name);
		else
			check_resident(c, no, base, a, len, name);
		prev = a;
	}
	if (ofs + 4 > used)
		finding(c, no, "attribute", "no end marker within the %u bytes in use", used);
	else if (used != ofs + 8)
		finding(c, no, "header", "%u bytes in use, but the attributes end at %u", used, ofs + 8);
	check_instances(c, no, buf, instances, nr);
}

static bool check_header(struct check *c, uint64_t no, const uint8_t *buf)
{
	uint32_t rs = c->boot.record_size, used = get32(buf + REC_USED), attrs = get16(buf + REC_ATTRS);
	uint32_t usa_end = get16(buf + REC_USA_OFS) + 2u * get16(buf + REC_USA_COUNT);

	if (get32(buf + REC_ALLOCATED) != rs)
		finding(c, no, "header", "%u bytes allocated, records have %u", get32(buf + REC_ALLOCATED), rs);
	if (used > rs || used % 8 || attrs % 8 || attrs < usa_end || attrs > rs - 8 || used < attrs + 8 ||
	    get16(buf + REC_USA_OFS) < 42) {
		finding(c, no, "header", "%u bytes in use, attributes at %u, fixups to %u of %u", used, attrs, usa_end,
		        rs);
		return false;
	}
	if (get16(buf + REC_USA_OFS) >= REC_HEADER && get32(buf + REC_NUMBER) != (uint32_t)no)
		finding(c, no, "header", "says that it is record %u", get32(buf + REC_NUMBER));
	if (!get16(buf + REC_SEQ))
		finding(c, no, "header", "sequence number 0");
	return true;
}

void check_record(struct check *c, uint64_t no, uint8_t *buf)
{
	struct record *r = &c->recs[no];
	uint16_t flags = get16(buf + REC_FLAGS);
	uint64_t base;

	if (memcmp(buf, "FILE", 4))
		return; /* RS_NONE: compared with the bitmap later */
	r->seq = get16(buf + REC_SEQ);
	r->state = RS_FREE;
	if (!ntfs_fixup_read(buf, c->boot.record_size)) {
		r->state = RS_TORN;
		if (flags & RF_IN_USE)
			finding(c, no, "fixup", "the update sequence does not match");
		return;
	}
	flags = get16(buf + REC_FLAGS);
	if (!(flags & RF_IN_USE))
		return;
	r->base_ref = get64(buf + REC_BASE);
	r->state = r->base_ref ? RS_EXTENSION : RS_BASE;
	r->links = get16(buf + REC_LINKS);
	r->directory = flags & RF_DIRECTORY;
	r->view_index = flags & RF_VIEW_INDEX;
	base = r->base_ref ? REF_RECORD(r->base_ref) : no;
	if (!check_header(c, no, buf))
		return;
	r->has_list = r->state == RS_BASE && contains_list(buf, get32(buf + REC_USED));
	check_attributes(c, no, base, buf, get32(buf + REC_USED));
}

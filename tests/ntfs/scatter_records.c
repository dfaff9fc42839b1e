// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Writing run lists into MFT records. If an attribute's run list still fits into its record it is replaced there.
 * Otherwise the file is packed anew: all its attribute records become items, the long run lists are cut into extents,
 * extents go to extension records, and an attribute list (resident or not) names them all.
 */
#include "ntfs_scatter.h"

#include <inttypes.h>
#include <stdlib.h>

#define ALIGN8(n) (((n) + 7u) & ~7u)
#define MAX_LIST  (256u << 10)

static unsigned signed_bytes(int64_t v)
{
	unsigned n = 1;

	while (n < 8 && (v < -((int64_t)1 << (8 * n - 1)) || v >= (int64_t)1 << (8 * n - 1)))
		n++;
	return n;
}

/* Encodes one run behind @prev; returns its size. @out may be NULL. */
static unsigned encode_run(const struct ntfs_run *r, int64_t prev, uint8_t *out)
{
	unsigned nlen = signed_bytes((int64_t)r->len), nlcn = r->lcn == LCN_IS_HOLE ? 0 : signed_bytes(r->lcn - prev);

	if (out) {
		*out++ = (uint8_t)(nlcn << 4 | nlen);
		for (unsigned i = 0; i < nlen; i++)
			*out++ = (uint8_t)(r->len >> (8 * i));
		for (unsigned i = 0; i < nlcn; i++)
			*out++ = (uint8_t)((uint64_t)(r->lcn - prev) >> (8 * i));
	}
	return 1 + nlen + nlcn;
}

/* As many runs as fit into @space with the terminator; *used is their size with it. */
static size_t encode_runs(const struct ntfs_run *runs, size_t nr, uint8_t *out, uint32_t space, uint32_t *used)
{
	int64_t prev = 0;
	size_t i;

	*used = 1;
	for (i = 0; i < nr; i++) {
		unsigned n = encode_run(&runs[i], prev, NULL);

		if (*used + n > space)
			break;
		if (out)
			encode_run(&runs[i], prev, out + *used - 1);
		*used += n;
		if (runs[i].lcn != LCN_IS_HOLE)
			prev = runs[i].lcn;
	}
	if (out)
		out[*used - 1] = 0;
	return i;
}

uint64_t records_needed(struct volume *v, const struct target *t, size_t nr_runs)
{
	uint32_t rs = v->boot.record_size, per = 5 + signed_bytes((int64_t)v->boot.nr_clusters);
	uint64_t bytes = (uint64_t)nr_runs * per, cap = rs - 160 - 2u * t->name_len;
	const uint8_t *r = record(v, t->base);

	if (t->base && !t->multi && bytes + 16 < rs - get32(r + REC_USED))
		return 0;
	return bytes / cap + 2;
}

/* One attribute record of a file that is being packed. */
struct item {
	uint32_t type;
	uint8_t name_len;
	const uint8_t *name;
	uint64_t lowest, rec;
	uint8_t *blob;
	uint32_t len;
	size_t seq; /* keeps the order of equal items */
	uint16_t instance;
};

struct bin {
	uint64_t rec;
	uint32_t used; /* bytes of items */
};

struct packing {
	struct volume *v;
	uint64_t base;
	struct target *targets;
	size_t nr_targets;
	struct vec items, bins, spare; /* bins[0] is the base record; spare: its emptied extension records */
	uint32_t ext_room;
};

static int compare_utf16(const uint8_t *a, unsigned alen, const uint8_t *b, unsigned blen)
{
	for (unsigned i = 0; i < alen && i < blen; i++) {
		uint16_t x = get16(a + 2 * i), y = get16(b + 2 * i);

		x = x >= 'a' && x <= 'z' ? (uint16_t)(x - 32) : x; /* names of attributes in tests are ASCII */
		y = y >= 'a' && y <= 'z' ? (uint16_t)(y - 32) : y;
		if (x != y)
			return x < y ? -1 : 1;
	}
	return (alen > blen) - (alen < blen);
}

static int compare_items(const void *pa, const void *pb)
{
	const struct item *a = pa, *b = pb;
	int cmp;

	if (a->type != b->type)
		return a->type < b->type ? -1 : 1;
	cmp = compare_utf16(a->name, a->name_len, b->name, b->name_len);
	if (cmp)
		return cmp;
	if (a->lowest != b->lowest)
		return a->lowest < b->lowest ? -1 : 1;
	return (a->seq > b->seq) - (a->seq < b->seq);
}

static void add_item(struct packing *p, uint64_t rec, const uint8_t *blob, uint32_t len)
{
	struct item *it = vec_add(&p->items, 1);

	*it = (struct item){.type = get32(blob),
	                    .name_len = blob[A_NAME_LEN],
	                    .rec = rec,
	                    .len = len,
	                    .blob = xalloc(len, 1),
	                    .seq = p->items.nr};
	memcpy(it->blob, blob, len);
	it->name = it->blob + get16(blob + A_NAME_OFS);
	it->lowest = blob[A_NONRES] ? get64(blob + A_LOWEST) : 0;
}

static bool is_target(const struct packing *p, const uint8_t *a)
{
	for (size_t i = 0; i < p->nr_targets; i++) {
		const struct target *t = &p->targets[i];

		if (t->type == get32(a) && t->name_len == a[A_NAME_LEN] &&
		    !memcmp(t->name, a + get16(a + A_NAME_OFS), 2u * t->name_len))
			return true;
	}
	return false;
}

static void drop_list_clusters(struct volume *v, const uint8_t *a)
{
	const uint8_t *p = a + get16(a + A_PAIRS_OFS), *end = a + get32(a + A_LENGTH);
	struct ntfs_run run;
	int64_t lcn = 0;

	while (ntfs_pair_next(&p, end, &lcn, &run) > 0)
		for (uint64_t i = 0; i < run.len; i++)
			give_cluster(v, (uint64_t)run.lcn + i);
}

/* Turns what stays as it is into items; the extension records that hold none of that become spare. */
static void take_apart(struct packing *p, uint64_t rec)
{
	const uint8_t *r = record(p->v, rec), *a;
	size_t before = p->items.nr;
	uint32_t used = 0;

	for (a = r + get16(r + REC_ATTRS); get32(a) != AT_END; a += get32(a + A_LENGTH)) {
		if (get32(a) == AT_LIST) {
			if (a[A_NONRES])
				drop_list_clusters(p->v, a);
		} else if (!is_target(p, a)) {
			add_item(p, rec, a, get32(a + A_LENGTH));
			used += get32(a + A_LENGTH);
		}
	}
	if (rec == p->base || p->items.nr > before)
		*(struct bin *)vec_add(&p->bins, 1) = (struct bin){rec, used};
	else
		*(uint64_t *)vec_add(&p->spare, 1) = rec;
}

static bool mft_bit(const struct volume *v, uint64_t no)
{
	return v->mft_bitmap[no / 8] >> (no % 8) & 1;
}

/*
 * A free MFT record. $MFT's own must be readable through its extents so far (@limit records), hence the lowest; 16 to
 * 23 are reserved for exactly this.
 */
static uint64_t take_record(struct volume *v, uint64_t base, uint64_t limit)
{
	uint64_t no = base ? v->next_free_rec : 16;

	for (; no < v->nr_recs && no < limit; no++) {
		if (get16(record(v, no) + REC_FLAGS) & RF_IN_USE || (no >= 24 && mft_bit(v, no)))
			continue;
		v->mft_bitmap[no / 8] |= (uint8_t)(1u << (no % 8));
		if (base)
			v->next_free_rec = no + 1;
		v->new_records++;
		return no;
	}
	die("no free MFT record%s for an extension record of %" PRIu64,
	    base ? "" : " that is low enough (see ntfs-populate --spare)", base);
}

static void format_record(struct volume *v, uint64_t no, uint64_t base)
{
	uint32_t rs = v->boot.record_size, count = rs / NTFS_STRIDE + 1;
	uint8_t *r = record(v, no);
	uint16_t seq = memcmp(r, "FILE", 4) ? 1 : get16(r + REC_SEQ);

	memset(r, 0, rs);
	memcpy(r, "FILE", 4);
	put16(r + REC_USA_OFS, REC_HEADER);
	put16(r + REC_USA_COUNT, (uint16_t)count);
	put16(r + REC_SEQ, seq ? seq : 1);
	put16(r + REC_ATTRS, (uint16_t)ALIGN8(REC_HEADER + 2 * count));
	put16(r + REC_FLAGS, RF_IN_USE);
	put32(r + REC_ALLOCATED, rs);
	put64(r + REC_BASE, base | (uint64_t)get16(record(v, base) + REC_SEQ) << 48);
	put32(r + REC_NUMBER, (uint32_t)no);
}

static struct bin *new_bin(struct packing *p, uint64_t limit)
{
	uint64_t *spare = p->spare.p, no;
	struct bin *b;

	if (p->spare.nr && p->base)
		no = spare[--p->spare.nr];
	else
		no = take_record(p->v, p->base, limit);
	format_record(p->v, no, p->base);
	b = vec_add(&p->bins, 1);
	*b = (struct bin){no, 0};
	return b;
}

static void free_record(struct volume *v, uint64_t no)
{
	uint8_t *r = record(v, no);
	uint16_t seq = (uint16_t)(get16(r + REC_SEQ) + 1);

	put16(r + REC_SEQ, seq ? seq : 1);
	put16(r + REC_FLAGS, 0);
	v->mft_bitmap[no / 8] &= (uint8_t) ~(1u << (no % 8));
	if (no < v->next_free_rec && no >= 24)
		v->next_free_rec = no;
	v->dirty[no] = true;
}

/* The header of an extent; returns its size up to the mapping pairs. */
static uint32_t extent_header(const struct target *t, uint64_t lowest, uint8_t *out)
{
	uint32_t ofs = !lowest && get16(t->header + A_FLAGS) & (AF_SPARSE | AF_COMPRESSION_MASK) ? A_COMP_HEADER
	                                                                                         : A_NONRES_HEADER;
	uint32_t pairs = ALIGN8(ofs + 2u * t->name_len);

	if (!out)
		return pairs;
	memset(out, 0, pairs);
	memcpy(out, t->header, lowest ? A_ALLOC : ofs);
	put16(out + A_NAME_OFS, (uint16_t)ofs);
	memcpy(out + ofs, t->name, 2u * t->name_len);
	put64(out + A_LOWEST, lowest);
	put16(out + A_PAIRS_OFS, (uint16_t)pairs);
	return pairs;
}

/* Makes an extent of the runs from @at on, as many as fit into @space bytes; returns how many. */
static size_t add_extent(struct packing *p, const struct target *t, size_t at, struct bin *b, uint32_t space)
{
	uint8_t blob[4096];
	uint64_t lowest = t->nr_new ? t->new_runs[at].vcn : 0;
	uint32_t pairs = extent_header(t, lowest, NULL), used;
	size_t nr;

	if (space < pairs + 32)
		return 0;
	nr = encode_runs(t->new_runs + at, t->nr_new - at, blob + pairs, space - pairs, &used);
	if (!nr)
		return 0;
	extent_header(t, lowest, blob);
	memset(blob + pairs + used, 0, ALIGN8(pairs + used) - pairs - used);
	put32(blob + A_LENGTH, ALIGN8(pairs + used));
	put64(blob + A_HIGHEST, t->new_runs[at + nr - 1].vcn + t->new_runs[at + nr - 1].len - 1);
	add_item(p, b->rec, blob, ALIGN8(pairs + used));
	b->used += ALIGN8(pairs + used);
	return nr;
}

static uint32_t base_room(const struct packing *p)
{
	const uint8_t *r = record(p->v, p->base);
	return p->v->boot.record_size - get16(r + REC_ATTRS) - 8 - ((struct bin *)p->bins.p)->used;
}

static uint32_t list_entry_size(const struct item *it)
{
	return ALIGN8(L_HEADER + 2u * it->name_len);
}

static uint32_t list_size(const struct packing *p)
{
	const struct item *it = p->items.p;
	uint32_t sum = 0;

	for (size_t i = 0; i < p->items.nr; i++)
		sum += list_entry_size(&it[i]);
	return sum;
}

/* $MFT's first extent stays in record 0, with room left for the list, and its others come in reach of each other. */
static void pack_target(struct packing *p, const struct target *t)
{
	uint64_t cs = p->v->boot.cluster_size, limit = UINT64_MAX;
	struct bin *b = NULL;
	size_t at = 0, nr;

	if (!p->base && t->type == AT_DATA) {
		b = p->bins.p;
		at = add_extent(p, t, 0, b, (base_room(p) > 120 ? base_room(p) - 120 : 0) & ~7u);
		if (!at)
			die("record 0 has no room for the first runs of $MFT");
		b = NULL;
	}
	while (at < t->nr_new) {
		if (!p->base && t->type == AT_DATA)
			limit = t->new_runs[at].vcn * cs / p->v->boot.record_size;
		if (!b && p->bins.nr > 1 && p->base)
			b = (struct bin *)p->bins.p + p->bins.nr - 1;
		nr = b ? add_extent(p, t, at, b, p->ext_room - b->used) : 0;
		if (!nr) {
			b = new_bin(p, limit);
			nr = add_extent(p, t, at, b, p->ext_room);
		}
		at += nr;
	}
}

/* Moves the largest attribute other than $STANDARD_INFORMATION out of the base record. */
static void evict(struct packing *p)
{
	struct item *it = p->items.p, *best = NULL;
	struct bin *b;

	for (size_t i = 0; i < p->items.nr; i++)
		if (it[i].rec == p->base && it[i].type != AT_SI &&
		    (p->base || (it[i].type != AT_DATA && it[i].type != AT_BITMAP)) && (!best || it[i].len > best->len))
			best = &it[i];
	if (!best || best->len > p->ext_room)
		die("the attribute list of record %" PRIu64 " does not fit", p->base);
	b = new_bin(p, p->base ? UINT64_MAX : 24);
	best->rec = b->rec;
	b->used += best->len;
	((struct bin *)p->bins.p)->used -= best->len;
}

static uint16_t number_items(struct packing *p, uint64_t rec, uint16_t first)
{
	struct item *it = p->items.p;

	for (size_t i = 0; i < p->items.nr; i++)
		if (it[i].rec == rec)
			it[i].instance = first++;
	return first;
}

static uint8_t *make_list(struct packing *p, uint32_t *size)
{
	struct item *it = p->items.p;
	uint8_t *list, *e;

	*size = list_size(p);
	if (*size > MAX_LIST)
		die("the attribute list of record %" PRIu64 " would exceed 256 KiB", p->base);
	list = e = xalloc(*size + 8, 1);
	for (size_t i = 0; i < p->items.nr; i++, it++) {
		put32(e + L_TYPE, it->type);
		put16(e + L_LENGTH, (uint16_t)list_entry_size(it));
		e[L_NAME_LEN] = it->name_len;
		e[L_NAME_OFS] = L_HEADER;
		put64(e + L_LOWEST, it->lowest);
		put64(e + L_REF, it->rec | (uint64_t)get16(record(p->v, it->rec) + REC_SEQ) << 48);
		put16(e + L_INSTANCE, it->instance);
		memcpy(e + L_HEADER, it->name, 2u * it->name_len);
		e += list_entry_size(it);
	}
	return list;
}

static void add_resident_list(struct packing *p, uint32_t size)
{
	uint8_t *blob = xalloc(A_RES_HEADER + ALIGN8(size), 1);

	put32(blob, AT_LIST);
	put32(blob + A_LENGTH, A_RES_HEADER + ALIGN8(size));
	put16(blob + A_NAME_OFS, A_RES_HEADER);
	put32(blob + A_VALUE_LEN, size);
	put16(blob + A_VALUE_OFS, A_RES_HEADER);
	add_item(p, p->base, blob, A_RES_HEADER + ALIGN8(size));
	free(blob);
}

/* Clusters for a list, merged into runs. With scatter_lists they come from all over the volume. */
static size_t take_list_clusters(struct packing *p, uint64_t clusters, struct ntfs_run *runs)
{
	size_t nr = 0;

	for (uint64_t i = 0; i < clusters; i++) {
		uint64_t lcn = take_cluster(p->v, p->v->scatter_lists && nr < 6);

		if (nr && runs[nr - 1].lcn + (int64_t)runs[nr - 1].len == (int64_t)lcn)
			runs[nr - 1].len++;
		else
			runs[nr++] = (struct ntfs_run){i, (int64_t)lcn, 1};
	}
	return nr;
}

static size_t add_nonresident_list(struct packing *p, uint32_t size, struct ntfs_run *runs)
{
	uint64_t cs = p->v->boot.cluster_size, clusters = (size + cs - 1) / cs;
	uint8_t blob[4096] = {0};
	uint32_t used;
	size_t nr = take_list_clusters(p, clusters, runs);

	put32(blob, AT_LIST);
	blob[A_NONRES] = 1;
	put16(blob + A_NAME_OFS, A_NONRES_HEADER);
	put16(blob + A_PAIRS_OFS, A_NONRES_HEADER);
	put64(blob + A_HIGHEST, clusters - 1);
	put64(blob + A_ALLOC, clusters * cs);
	put64(blob + A_DATA, size);
	put64(blob + A_INIT, size);
	if (encode_runs(runs, nr, blob + A_NONRES_HEADER, base_room(p) - A_NONRES_HEADER, &used) != nr)
		die("record %" PRIu64 " has no room for the runs of its attribute list", p->base);
	put32(blob + A_LENGTH, ALIGN8(A_NONRES_HEADER + used));
	add_item(p, p->base, blob, ALIGN8(A_NONRES_HEADER + used));
	return nr;
}

static void write_record(struct packing *p, uint64_t rec)
{
	uint8_t *r = record(p->v, rec), *a = r + get16(r + REC_ATTRS);
	const struct item *it = p->items.p;
	uint16_t next = 0;

	memset(a, 0, (size_t)(r + p->v->boot.record_size - a));
	for (size_t i = 0; i < p->items.nr; i++, it++) {
		if (it->rec != rec)
			continue;
		memcpy(a, it->blob, it->len);
		put16(a + A_INSTANCE, it->instance);
		next = it->instance >= next ? (uint16_t)(it->instance + 1) : next;
		a += it->len;
	}
	put32(a, AT_END);
	put32(r + REC_USED, (uint32_t)(a - r) + 8);
	put16(r + REC_NEXT_INSTANCE, next);
	p->v->dirty[rec] = true;
}

static void sort_items(struct packing *p)
{
	qsort(p->items.p, p->items.nr, p->items.item, compare_items);
}

/* Adds the attribute list to the items, which are final but for it, and puts its content where it belongs. */
static void add_list(struct packing *p)
{
	uint64_t cs = p->v->boot.cluster_size;
	struct ntfs_run *runs = NULL;
	uint32_t size = list_size(p), done = 0;
	uint8_t *list;
	size_t nr = 0;

	while (base_room(p) < A_RES_HEADER + size && base_room(p) < A_NONRES_HEADER + 56)
		evict(p);
	sort_items(p);
	for (size_t i = 0; i < p->bins.nr; i++)
		number_items(p, ((struct bin *)p->bins.p)[i].rec, 1); /* instance 0 is for the list itself */
	list = make_list(p, &size);
	if (base_room(p) >= A_RES_HEADER + size) {
		add_resident_list(p, size);
		sort_items(p);
		for (struct item *it = p->items.p;; it++) {
			if (it->type != AT_LIST)
				continue;
			memcpy(it->blob + A_RES_HEADER, list, size);
			break;
		}
	} else {
		runs = xalloc(size / cs + 1, sizeof(*runs));
		nr = add_nonresident_list(p, size, runs);
		sort_items(p);
	}
	for (size_t i = 0; i < nr; i++)
		for (uint64_t k = 0; k < runs[i].len; k++, done += (uint32_t)cs) {
			uint8_t *dst = cluster(p->v, (uint64_t)runs[i].lcn + k);

			memset(dst, 0, cs);
			memcpy(dst, list + done, size - done < cs ? size - done : cs);
		}
	p->v->list_records++;
	free(runs);
	free(list);
}

/* Everything in the base record, without a list? */
static bool pack_without_list(struct packing *p)
{
	uint32_t total = 0, used;

	if (p->bins.nr > 1)
		return false;
	for (size_t i = 0; i < p->nr_targets; i++) {
		const struct target *t = &p->targets[i];

		if (encode_runs(t->new_runs, t->nr_new, NULL, UINT32_MAX, &used) != t->nr_new)
			return false;
		total += ALIGN8(extent_header(t, 0, NULL) + used) + 24;
		if (total > base_room(p))
			return false;
	}
	for (size_t i = 0; i < p->nr_targets; i++)
		if (add_extent(p, &p->targets[i], 0, p->bins.p, base_room(p)) != p->targets[i].nr_new)
			die("record %" PRIu64 ": a run list that fits does not fit", p->base);
	return true;
}

static void free_packing(struct packing *p)
{
	struct item *it = p->items.p;

	for (size_t i = 0; i < p->items.nr; i++)
		free(it[i].blob);
	free(p->items.p);
	free(p->bins.p);
	free(p->spare.p);
}

static size_t first_extension(const struct volume *v, uint64_t base)
{
	size_t lo = 0, hi = v->nr_ext;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (v->ext_base[2 * mid] < base)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void pack_file(struct volume *v, struct target *targets, size_t nr)
{
	uint32_t rs = v->boot.record_size;
	struct packing p = {.v = v,
	                    .base = targets->base,
	                    .targets = targets,
	                    .nr_targets = nr,
	                    .items.item = sizeof(struct item),
	                    .bins.item = sizeof(struct bin),
	                    .spare.item = sizeof(uint64_t)};
	struct bin *b;

	p.ext_room = rs - ALIGN8(REC_HEADER + 2 * (rs / NTFS_STRIDE + 1)) - 8;
	take_apart(&p, p.base);
	for (size_t i = first_extension(v, p.base); i < v->nr_ext && v->ext_base[2 * i] == p.base; i++)
		take_apart(&p, v->ext_base[2 * i + 1]);
	if (!pack_without_list(&p)) {
		for (size_t i = 0; i < nr; i++)
			pack_target(&p, &targets[i]);
		add_list(&p);
	} else {
		sort_items(&p);
		number_items(&p, p.base, 0);
	}
	b = p.bins.p;
	for (size_t i = 0; i < p.bins.nr; i++)
		write_record(&p, b[i].rec);
	for (size_t i = 0; i < p.spare.nr; i++)
		free_record(v, ((uint64_t *)p.spare.p)[i]);
	free_packing(&p);
}

/* Replaces the mapping pairs in the base record, where they are; false if they do not fit. */
static bool rewrite_in_place(struct volume *v, struct target *t, uint32_t attr_ofs, int *shift)
{
	uint8_t *r = record(v, t->base), *a = r + attr_ofs, pairs[4096];
	uint32_t len = get32(a + A_LENGTH), ofs = get16(a + A_PAIRS_OFS), used_bytes = get32(r + REC_USED), used, want;

	if (encode_runs(t->new_runs, t->nr_new, pairs, v->boot.record_size - used_bytes + len - ofs, &used) !=
	    t->nr_new)
		return false;
	want = ALIGN8(ofs + used);
	if (used_bytes - len + want > v->boot.record_size)
		return false;
	memmove(a + want, a + len, (size_t)(r + used_bytes - (a + len)));
	memcpy(a + ofs, pairs, used);
	memset(a + ofs + used, 0, want - ofs - used);
	put32(a + A_LENGTH, want);
	put32(r + REC_USED, used_bytes - len + want);
	*shift = (int)want - (int)len;
	v->dirty[t->base] = true;
	return true;
}

void rewrite_file(struct volume *v, struct target *targets, size_t nr)
{
	int total = 0, shift;

	for (size_t i = 0; i < nr; i++) {
		if (targets[i].multi ||
		    !rewrite_in_place(v, &targets[i], targets[i].attr_ofs + (uint32_t)total, &shift)) {
			pack_file(v, targets, nr);
			return;
		}
		total += shift;
	}
}

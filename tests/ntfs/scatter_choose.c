// SPDX-License-Identifier: GPL-2.0-or-later
/* Which attributes ntfs-scatter takes, and where it cuts them. */
#include "ntfs_scatter.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- Choosing ---- */

static bool wanted(const struct options *o, uint64_t base, uint32_t type, bool named)
{
	if (o->only != NO_ONLY && o->only != base)
		return false;
	switch (base) {
	case 0:
		return (type == AT_DATA && o->what & W_MFT) || (type == AT_BITMAP && o->what & W_MFTBMP);
	case 6:
		return type == AT_DATA && !named && o->what & W_BITMAP;
	case 9:
		return o->what & W_SECURE && type != AT_LIST;
	case 1:
	case 2:
	case 3:
	case 4:
	case 7:
	case 8:
	case 10:
		return false;
	}
	switch (type) {
	case AT_DATA:
		return base >= 24 && o->what & (named ? W_STREAMS : W_DATA);
	case AT_INDEX_ALLOC:
		return o->what & W_DIRS;
	case AT_LIST:
		return false;
	default:
		return base >= 24 && o->what & W_OTHER;
	}
}

struct found {
	uint64_t base, rec;
	uint32_t ofs;
	const uint8_t *attr;
};

static int compare_found(const void *pa, const void *pb)
{
	const struct found *a = pa, *b = pb;
	unsigned la = 2u * a->attr[A_NAME_LEN], lb = 2u * b->attr[A_NAME_LEN];
	int cmp;

	if (a->base != b->base)
		return a->base < b->base ? -1 : 1;
	if (get32(a->attr) != get32(b->attr))
		return get32(a->attr) < get32(b->attr) ? -1 : 1;
	cmp = memcmp(a->attr + get16(a->attr + A_NAME_OFS), b->attr + get16(b->attr + A_NAME_OFS), la < lb ? la : lb);
	if (cmp || la != lb)
		return cmp ? cmp : la < lb ? -1 : 1;
	return get64(a->attr + A_LOWEST) < get64(b->attr + A_LOWEST)
	               ? -1
	               : get64(a->attr + A_LOWEST) > get64(b->attr + A_LOWEST);
}

static bool same_attr(const struct found *a, const struct found *b)
{
	return a->base == b->base && get32(a->attr) == get32(b->attr) && a->attr[A_NAME_LEN] == b->attr[A_NAME_LEN] &&
	       !memcmp(a->attr + get16(a->attr + A_NAME_OFS), b->attr + get16(b->attr + A_NAME_OFS),
	               2u * a->attr[A_NAME_LEN]);
}

static void add_target(struct volume *v, const struct found *f, bool multi)
{
	const uint8_t *a = f->attr;
	uint8_t *name = xalloc(2u * a[A_NAME_LEN] + 1u, 1);
	struct target *t = vec_add(&v->targets, 1);

	*t = (struct target){.base = f->base,
	                     .type = get32(a),
	                     .name = name,
	                     .name_len = a[A_NAME_LEN],
	                     .multi = multi,
	                     .attr_ofs = f->ofs,
	                     .header = xalloc(A_COMP_HEADER, 1),
	                     .first_run = v->runs.nr};
	memcpy(name, a + get16(a + A_NAME_OFS), 2u * a[A_NAME_LEN]);
	memcpy(t->header, a, A_COMP_HEADER);
}

static int compare_pairs(const void *pa, const void *pb)
{
	const uint64_t *a = pa, *b = pb;

	return a[0] != b[0] ? a[0] < b[0] ? -1 : 1 : (a[1] > b[1]) - (a[1] < b[1]);
}

static void find_extensions(struct volume *v)
{
	struct vec pairs = {.item = 2 * sizeof(uint64_t)};

	for (uint64_t i = 0; i < v->nr_recs; i++) {
		const uint8_t *r = record(v, i);

		if (!memcmp(r, "FILE", 4) && get16(r + REC_FLAGS) & RF_IN_USE && get64(r + REC_BASE)) {
			uint64_t *pair = vec_add(&pairs, 1);

			pair[0] = REF_RECORD(get64(r + REC_BASE));
			pair[1] = i;
		}
	}
	v->ext_base = pairs.p;
	v->nr_ext = pairs.nr;
	if (pairs.nr)
		qsort(pairs.p, pairs.nr, pairs.item, compare_pairs);
}

/* All wanted attributes, by record; those of files with attribute lists are collected from all their records. */
void find_targets(struct volume *v, const struct options *o)
{
	struct vec found = {.item = sizeof(struct found)};
	const struct found *f;

	find_extensions(v);
	for (uint64_t i = 0; i < v->nr_recs; i++) {
		uint8_t *r = record(v, i);
		uint64_t base = get64(r + REC_BASE) ? REF_RECORD(get64(r + REC_BASE)) : i;

		if (memcmp(r, "FILE", 4) || !(get16(r + REC_FLAGS) & RF_IN_USE))
			continue;
		for (uint8_t *a = r + get16(r + REC_ATTRS); get32(a) != AT_END; a += get32(a + A_LENGTH))
			if (a[A_NONRES] && wanted(o, base, get32(a), a[A_NAME_LEN]))
				*(struct found *)vec_add(&found, 1) = (struct found){base, i, (uint32_t)(a - r), a};
	}
	f = found.p;
	if (v->nr_ext)
		qsort(found.p, found.nr, found.item, compare_found);
	for (size_t i = 0; i < found.nr; i++) {
		bool multi = find_attr(record(v, f[i].base), AT_LIST, 0);

		if (!i || !same_attr(&f[i - 1], &f[i]))
			add_target(v, &f[i], multi);
		decode(v, f[i].attr, &v->runs);
		((struct target *)v->targets.p + v->targets.nr - 1)->nr_runs =
		        v->runs.nr - ((struct target *)v->targets.p + v->targets.nr - 1)->first_run;
	}
	free(found.p);
}

/* ---- Cutting ---- */

struct cutter {
	uint64_t needed, positions; /* for --fragments: choose @needed of @positions, uniformly */
	uint64_t min_run, max_run;
};

/* Clusters at the head of a target that stay: of $MFT, what must be found without its run list. */
uint64_t pinned(struct volume *v, const struct target *t)
{
	const struct ntfs_run *r = (struct ntfs_run *)v->runs.p + t->first_run;
	uint64_t want = (64ull * v->boot.record_size + v->boot.cluster_size - 1) / v->boot.cluster_size;

	if (t->base || t->type != AT_DATA)
		return 0;
	return want < r->len ? want : r->len;
}

static uint64_t granule(const struct target *t, const struct cutter *cut)
{
	return get16(t->header + A_FLAGS) & AF_COMPRESSION_MASK && cut->min_run < 16 ? 16 : cut->min_run;
}

/* How long the next piece of a run becomes. Compressed attributes are cut between units. */
static uint64_t piece_length(struct volume *v, struct cutter *cut, uint64_t g, uint64_t vcn, uint64_t left, bool exact)
{
	uint64_t len = g - vcn % g * (g == 16), want;

	if (!exact) {
		want = cut->min_run + random_below(v, cut->max_run - cut->min_run + 1);
		while (len < want)
			len += g;
		return len < left ? len : left;
	}
	for (; len < left; len += g) {
		bool chosen = random_below(v, cut->positions) < cut->needed;

		cut->positions -= cut->positions > 0;
		if (chosen)
			cut->needed--;
		if (chosen || len + g > cut->max_run)
			return len;
	}
	return left;
}

static void cut_target(struct volume *v, uint32_t no, struct cutter *cut, bool exact)
{
	struct target *t = (struct target *)v->targets.p + no;
	uint64_t keep = pinned(v, t), g = granule(t, cut);

	t->first_piece = v->pieces.nr;
	for (size_t i = t->first_run; i < t->first_run + t->nr_runs; i++) {
		struct ntfs_run r = ((struct ntfs_run *)v->runs.p)[i];

		if (r.lcn == LCN_IS_HOLE)
			continue;
		for (uint64_t done = r.vcn < keep ? keep - r.vcn : 0; done < r.len;) {
			uint64_t n = piece_length(v, cut, g, r.vcn + done, r.len - done, exact);

			*(struct piece *)vec_add(&v->pieces, 1) = (struct piece){.vcn = r.vcn + done,
			                                                         .old_lcn = (uint64_t)r.lcn + done,
			                                                         .len = n,
			                                                         .target = no,
			                                                         .subs = UINT32_MAX};
			done += n;
		}
	}
	t->nr_pieces = v->pieces.nr - t->first_piece;
}

static uint64_t count_positions(struct volume *v, const struct cutter *cut, uint64_t *natural)
{
	const struct target *t = v->targets.p;
	const struct ntfs_run *r = v->runs.p;
	uint64_t sum = 0;

	*natural = 0;
	for (size_t i = 0; i < v->targets.nr; i++)
		for (size_t k = t[i].first_run; k < t[i].first_run + t[i].nr_runs; k++)
			if (r[k].lcn != LCN_IS_HOLE) {
				sum += (r[k].len - 1) / granule(&t[i], cut);
				*natural += 1;
			}
	return sum;
}

void cut_targets(struct volume *v, const struct options *o)
{
	struct cutter cut = {.min_run = o->min_run, .max_run = o->max_run};
	uint64_t natural;

	cut.positions = count_positions(v, &cut, &natural);
	cut.needed = o->fragments > natural ? o->fragments - natural : 0;
	for (size_t i = 0; i < v->targets.nr; i++)
		cut_target(v, (uint32_t)i, &cut, o->fragments);
	if (v->pieces.nr >= UINT32_MAX)
		die("too many pieces");
}

// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ntfs-scatter: fragments an existing consistent NTFS volume, quickly and by rule. It cuts the chosen attributes into
 * pieces, shuffles these together with pieces of the free space over all clusters that the chosen attributes and the
 * free space have, moves the clusters, and rewrites run lists (with attribute lists and extension records where
 * needed), $Bitmap, $MFT's bitmap and $MFTMirr. Needs no free space. Names, sizes and contents of files stay as they
 * are.
 */
#include "ntfs_scatter.h"

#include "image_grow.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum what {
	W_DATA = 1,
	W_STREAMS = 2,
	W_DIRS = 4,
	W_MFT = 8,
	W_MFTBMP = 16,
	W_BITMAP = 32,
	W_SECURE = 64,
	W_LISTS = 128,
	W_OTHER = 256,
};

struct options {
	const char *image;
	uint64_t offset, seed, fragments, min_run, max_run, free_pieces, only;
	unsigned what;
	bool poison, quiet;
};

#define NO_ONLY UINT64_MAX

void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("ntfs-scatter: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(2);
}

void *xalloc(size_t nr, size_t item)
{
	void *p = calloc(nr ? nr : 1, item);

	if (!p)
		die("out of memory");
	return p;
}

void *vec_add(struct vec *v, size_t nr)
{
	void *p;

	if (v->nr + nr > v->cap || !v->p) {
		v->cap = v->cap * 2 > v->nr + nr ? v->cap * 2 : v->nr + nr + 16;
		v->p = reallocarray(v->p, v->cap, v->item);
		if (!v->p)
			die("out of memory");
	}
	p = (char *)v->p + v->nr * v->item;
	v->nr += nr;
	return p;
}

uint64_t random_next(struct volume *v)
{
	uint64_t z = v->rng += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

static uint64_t random_below(struct volume *v, uint64_t n)
{
	return n ? random_next(v) % n : 0;
}

uint8_t *record(struct volume *v, uint64_t no)
{
	return v->mft + no * v->boot.record_size;
}

uint8_t *cluster(struct volume *v, uint64_t lcn)
{
	return v->image + v->offset + lcn * v->boot.cluster_size;
}

static bool bit(const uint8_t *bits, uint64_t no)
{
	return bits[no / 8] >> (no % 8) & 1;
}

static void put_bit(uint8_t *bits, uint64_t no, bool set)
{
	if (set)
		bits[no / 8] |= (uint8_t)(1u << (no % 8));
	else
		bits[no / 8] &= (uint8_t) ~(1u << (no % 8));
}

/* ---- Loading ---- */

/* The attribute of a record, or NULL. Records are consistent: the tool wants a volume that ntfs-check accepts. */
static uint8_t *find_attr(uint8_t *r, uint32_t type, uint8_t name_len)
{
	for (uint8_t *a = r + get16(r + REC_ATTRS); get32(a) != AT_END; a += get32(a + A_LENGTH))
		if (get32(a) == type && a[A_NAME_LEN] == name_len)
			return a;
	return NULL;
}

/* Adds the runs of an extent to @runs. */
static void decode(struct volume *v, const uint8_t *a, struct vec *runs)
{
	const uint8_t *p = a + get16(a + A_PAIRS_OFS), *end = a + get32(a + A_LENGTH);
	uint64_t vcn = get64(a + A_LOWEST);
	struct ntfs_run run;
	int64_t lcn = 0;
	int rc;

	while ((rc = ntfs_pair_next(&p, end, &lcn, &run)) > 0) {
		if (run.lcn != LCN_IS_HOLE && (uint64_t)run.lcn + run.len > v->boot.nr_clusters)
			die("a run leaves the volume: run ntfs-check first");
		run.vcn = vcn;
		vcn += run.len;
		*(struct ntfs_run *)vec_add(runs, 1) = run;
	}
	if (rc)
		die("malformed mapping pairs: run ntfs-check first");
}

#define COPY_STEP 4096u

/* Copies what differs, so that a long run of zeros takes no memory (buffers are zeroed) and no blocks of the image. */
static void copy_different(uint8_t *to, const uint8_t *from, uint64_t len)
{
	for (uint64_t done = 0; done < len; done += COPY_STEP) {
		size_t n = len - done < COPY_STEP ? (size_t)(len - done) : COPY_STEP;

		if (memcmp(to + done, from + done, n) != 0)
			memcpy(to + done, from + done, n);
	}
}

/* Copies @len bytes from (or, with @write, to) the clusters of @runs. */
static void copy_runs(struct volume *v, const struct vec *runs, uint8_t *buf, uint64_t len, bool write)
{
	const struct ntfs_run *r = runs->p;
	uint64_t cs = v->boot.cluster_size;

	for (size_t i = 0; i < runs->nr && len; i++, r++) {
		uint64_t n = r->len * cs < len ? r->len * cs : len;

		if (write)
			copy_different(cluster(v, (uint64_t)r->lcn), buf, n);
		else
			copy_different(buf, cluster(v, (uint64_t)r->lcn), n);
		buf += n;
		len -= n;
	}
	if (len)
		die("a system file is shorter than its size");
}

/* All runs of unnamed @type of record @base and its data size. $MFT's own are read through those that are known
 * already. */
static uint64_t load_runs(struct volume *v, uint64_t base, uint8_t *base_rec, uint32_t type, struct vec *runs)
{
	const struct vec *mft_runs = type == AT_DATA && !base ? runs : &v->mft_runs;
	uint32_t rs = v->boot.record_size, cs = v->boot.cluster_size;
	uint8_t *a = find_attr(base_rec, type, 0), *list = find_attr(base_rec, AT_LIST, 0), *e, *end, *rec;
	struct vec list_runs = {.item = sizeof(struct ntfs_run)};
	uint64_t len, size = 0;
	uint8_t *copy;

	if (a && a[A_NONRES]) {
		decode(v, a, runs);
		size = get64(a + A_DATA);
	}
	if (!list)
		return size;
	len = list[A_NONRES] ? get64(list + A_DATA) : get32(list + A_VALUE_LEN);
	copy = xalloc(len + 8, 1);
	if (list[A_NONRES]) {
		decode(v, list, &list_runs);
		copy_runs(v, &list_runs, copy, len, false);
	} else {
		memcpy(copy, list + get16(list + A_VALUE_OFS), len);
	}
	rec = xalloc(rs, 1);
	for (e = copy, end = copy + len; e < end; e += get16(e + L_LENGTH)) {
		uint64_t no = REF_RECORD(get64(e + L_REF)), pos = no * rs;

		if (get32(e) != type || e[L_NAME_LEN] || no == base)
			continue;
		for (uint32_t done = 0; done < rs;) { /* a record may span clusters that are apart */
			uint64_t vcn = (pos + done) / cs, skip = (pos + done) % cs;
			uint32_t n = rs - done < cs - skip ? rs - done : (uint32_t)(cs - skip);
			const struct ntfs_run *r = mft_runs->p, *last = r + mft_runs->nr;

			while (r < last && vcn >= r->vcn + r->len)
				r++;
			if (r == last)
				die("an extension record of %" PRIu64 " is out of reach", base);
			memcpy(rec + done, cluster(v, (uint64_t)r->lcn + vcn - r->vcn) + skip, n);
			done += n;
		}
		a = ntfs_fixup_read(rec, rs) ? find_attr(rec, type, 0) : NULL;
		if (!a)
			die("an extension record of %" PRIu64 " is damaged", base);
		decode(v, a, runs);
		size = get64(a + A_LOWEST) ? size : get64(a + A_DATA);
	}
	free(rec);
	free(copy);
	free(list_runs.p);
	return size;
}

static void load_mft(struct volume *v)
{
	uint32_t rs = v->boot.record_size;
	uint8_t *first = xalloc(rs, 1);
	uint64_t size;

	memcpy(first, cluster(v, v->boot.mft_lcn), rs);
	if (memcmp(first, "FILE", 4) || !ntfs_fixup_read(first, rs) || !find_attr(first, AT_DATA, 0))
		die("$MFT cannot be read");
	size = get64(find_attr(first, AT_DATA, 0) + A_INIT);
	load_runs(v, 0, first, AT_DATA, &v->mft_runs);
	v->nr_recs = size / rs;
	v->mft = xalloc(v->nr_recs, rs);
	copy_runs(v, &v->mft_runs, v->mft, v->nr_recs * rs, false);
	for (uint64_t i = 0; i < v->nr_recs; i++)
		if (!memcmp(record(v, i), "FILE", 4) && !ntfs_fixup_read(record(v, i), rs))
			die("record %" PRIu64 " has bad fixups", i);
	v->dirty = xalloc(v->nr_recs, sizeof(*v->dirty));
	free(first);
}

static uint8_t *load_bits(struct volume *v, uint64_t base, uint32_t type, struct vec *runs, uint64_t *len)
{
	uint8_t *a = find_attr(record(v, base), type, 0), *bits;

	*len = load_runs(v, base, record(v, base), type, runs);
	if (a && !a[A_NONRES])
		*len = get32(a + A_VALUE_LEN);
	bits = xalloc(*len + 8, 1);
	if (a && !a[A_NONRES])
		memcpy(bits, a + get16(a + A_VALUE_OFS), *len);
	else
		copy_runs(v, runs, bits, *len, false);
	if (*len * 8 < (base ? v->boot.nr_clusters : v->nr_recs))
		die("the bitmap of record %" PRIu64 " is too short", base);
	return bits;
}

static void load_volume(struct volume *v, const struct options *o)
{
	const char *wrong;
	struct stat st;

	*v = (struct volume){.targets.item = sizeof(struct target),
	                     .runs.item = sizeof(struct ntfs_run),
	                     .pieces.item = sizeof(struct piece),
	                     .subs.item = sizeof(struct sub),
	                     .gaps.item = sizeof(struct ntfs_run),
	                     .mft_runs.item = sizeof(struct ntfs_run),
	                     .bitmap_runs.item = sizeof(struct ntfs_run),
	                     .mft_bitmap_runs.item = sizeof(struct ntfs_run),
	                     .offset = o->offset,
	                     .rng = o->seed,
	                     .next_free_rec = 24,
	                     .scatter_lists = o->what & W_LISTS};
	v->fd = open(o->image, O_RDWR | O_CLOEXEC);
	if (v->fd < 0 || fstat(v->fd, &st))
		die("%s: %s", o->image, strerror(errno));
	v->image_size = (uint64_t)st.st_size;
	if (v->offset > v->image_size || v->image_size - v->offset < 512)
		die("there is no volume at this offset");
	v->image = mmap(NULL, v->image_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->image == MAP_FAILED)
		die("mapping %s: %s", o->image, strerror(errno));
	wrong = ntfs_boot_parse(v->image + v->offset, &v->boot);
	if (wrong || v->boot.total_sectors * v->boot.sector_size > v->image_size - v->offset)
		die("%s", wrong ? wrong : "the volume is longer than the image");
	if (v->boot.nr_clusters >= UINT32_MAX)
		die("too many clusters");
	load_mft(v);
	v->bitmap = load_bits(v, 6, AT_DATA, &v->bitmap_runs, &v->bitmap_len);
	v->mft_bitmap = load_bits(v, 0, AT_BITMAP, &v->mft_bitmap_runs, &v->mft_bitmap_len);
}

static void unload_volume(struct volume *v)
{
	struct target *t = v->targets.p;

	for (size_t i = 0; i < v->targets.nr; i++) {
		free((void *)t[i].name);
		free(t[i].header);
		free(t[i].new_runs);
	}
	struct vec *vecs[] = {&v->targets, &v->runs,     &v->pieces,      &v->subs,
	                      &v->gaps,    &v->mft_runs, &v->bitmap_runs, &v->mft_bitmap_runs};
	for (size_t i = 0; i < sizeof(vecs) / sizeof(*vecs); i++)
		free(vecs[i]->p);
	free(v->mft);
	free(v->dirty);
	free(v->ext_base);
	free(v->bitmap);
	free(v->mft_bitmap);
	munmap(v->image, v->image_size);
	close(v->fd);
}

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
static void find_targets(struct volume *v, const struct options *o)
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
static uint64_t pinned(struct volume *v, const struct target *t)
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

static void cut_targets(struct volume *v, const struct options *o)
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

/* ---- Placing ---- */

static uint32_t *shuffle(struct volume *v)
{
	const struct piece *p = v->pieces.p;
	size_t nr = v->pieces.nr;
	uint32_t *order = xalloc(nr, sizeof(*order));

	for (size_t i = 0; i < nr; i++)
		order[i] = (uint32_t)i;
	for (size_t i = nr; i > 1; i--) {
		size_t k = random_below(v, i);
		uint32_t x = order[i - 1];

		order[i - 1] = order[k];
		order[k] = x;
	}
	for (size_t i = 1; i < nr && nr > 2; i++) { /* neighbours that would merge again */
		for (int tries = 0;
		     tries < 8 && order[i] == order[i - 1] + 1 && p[order[i]].target == p[order[i - 1]].target;
		     tries++) {
			size_t k = random_below(v, nr);
			uint32_t x = order[i];

			order[i] = order[k];
			order[k] = x;
		}
	}
	return order;
}

/* Makes clusters of the pool available in order: those that are free or will be. */
struct pool {
	uint64_t lcn, left; /* clusters from lcn on, as far as they are in one piece */
};

static bool pool_next(struct volume *v, struct pool *pool)
{
	uint64_t lcn = pool->lcn;

	while (lcn < v->boot.nr_clusters && bit(v->bitmap, lcn))
		lcn += lcn % 8 == 0 && v->bitmap[lcn / 8] == 0xff ? 8 : 1;
	if (lcn >= v->boot.nr_clusters)
		return false;
	pool->lcn = lcn;
	while (lcn < v->boot.nr_clusters && !bit(v->bitmap, lcn))
		lcn += lcn % 8 == 0 && v->boot.nr_clusters - lcn >= 8 && !v->bitmap[lcn / 8] ? 8 : 1;
	pool->left = lcn - pool->lcn;
	return true;
}

static void place_gap(struct volume *v, struct pool *pool, uint64_t len)
{
	while (len && (pool->left || pool_next(v, pool))) {
		uint64_t n = len < pool->left ? len : pool->left;

		*(struct ntfs_run *)vec_add(&v->gaps, 1) = (struct ntfs_run){0, (int64_t)pool->lcn, n};
		pool->lcn += n;
		pool->left -= n;
		len -= n;
	}
}

static void place_piece(struct volume *v, struct pool *pool, uint32_t no)
{
	uint64_t done = 0, len = ((struct piece *)v->pieces.p)[no].len;
	uint32_t *link = &((struct piece *)v->pieces.p)[no].subs, last = UINT32_MAX;

	while (done < len) {
		uint64_t n;

		if (!pool->left && !pool_next(v, pool))
			die("internal error: the pool is too small");
		n = len - done < pool->left ? len - done : pool->left;
		if (last != UINT32_MAX)
			link = &((struct sub *)v->subs.p)[last].next;
		*link = (uint32_t)v->subs.nr;
		last = (uint32_t)v->subs.nr;
		*(struct sub *)vec_add(&v->subs, 1) = (struct sub){pool->lcn, n, UINT32_MAX};
		pool->lcn += n;
		pool->left -= n;
		done += n;
	}
}

/* The bits of the pieces are cleared first, placed pieces' set afterwards: in between, clear means "in the pool". */
static void place_pieces(struct volume *v, const struct options *o)
{
	const struct piece *p = v->pieces.p;
	uint32_t *order = shuffle(v);
	uint64_t free_clusters = 0, gap = 0, every;
	struct pool pool = {0, 0};

	for (uint64_t i = 0, n; i < v->boot.nr_clusters; i += n) {
		n = i % 8 == 0 && v->boot.nr_clusters - i >= 8 && !v->bitmap[i / 8] ? 8 : 1;
		free_clusters += bit(v->bitmap, i) ? 0 : n;
	}
	for (size_t i = 0; i < v->pieces.nr; i++)
		for (uint64_t k = 0; k < p[i].len; k++)
			put_bit(v->bitmap, p[i].old_lcn + k, false);
	every = o->free_pieces ? v->pieces.nr / o->free_pieces + 1 : v->pieces.nr + 1;
	gap = o->free_pieces ? free_clusters / (v->pieces.nr / every + 2) : 0;
	for (size_t i = 0; i < v->pieces.nr; i++) {
		if (gap && i % every == 0)
			place_gap(v, &pool, gap);
		place_piece(v, &pool, order[i]);
	}
	place_gap(v, &pool, UINT64_MAX);
	for (size_t i = 0; i < v->subs.nr; i++)
		for (uint64_t k = 0; k < ((struct sub *)v->subs.p)[i].len; k++)
			put_bit(v->bitmap, ((struct sub *)v->subs.p)[i].lcn + k, true);
	free(order);
}

uint64_t take_cluster(struct volume *v, bool anywhere)
{
	struct ntfs_run *g = v->gaps.p;

	if (anywhere && v->gaps.nr) {
		size_t i = random_below(v, v->gaps.nr);

		if (g[i].len) {
			put_bit(v->bitmap, (uint64_t)g[i].lcn, true);
			g[i].len--;
			return (uint64_t)g[i].lcn++;
		}
	}
	for (size_t i = v->gaps.nr; i; i--) { /* the last gap is the largest */
		if (!g[i - 1].len)
			continue;
		put_bit(v->bitmap, (uint64_t)g[i - 1].lcn, true);
		g[i - 1].len--;
		return (uint64_t)g[i - 1].lcn++;
	}
	die("no free cluster for an attribute list");
}

void give_cluster(struct volume *v, uint64_t lcn)
{
	put_bit(v->bitmap, lcn, false);
	*(struct ntfs_run *)vec_add(&v->gaps, 1) = (struct ntfs_run){0, (int64_t)lcn, 1};
}

static void add_run(struct target *t, struct ntfs_run r)
{
	struct ntfs_run *last = t->nr_new ? &t->new_runs[t->nr_new - 1] : NULL;

	if (last && (r.lcn == LCN_IS_HOLE ? last->lcn == LCN_IS_HOLE
	                                  : last->lcn != LCN_IS_HOLE && last->lcn + (int64_t)last->len == r.lcn))
		last->len += r.len;
	else
		t->new_runs[t->nr_new++] = r;
}

/* The new run list: holes and pinned clusters as they were, pieces where they have been put. */
static void make_runs(struct volume *v, struct target *t)
{
	const struct ntfs_run *r = (struct ntfs_run *)v->runs.p + t->first_run;
	const struct piece *p = (struct piece *)v->pieces.p + t->first_piece, *end = p + t->nr_pieces;
	const struct sub *subs = v->subs.p;
	uint64_t keep = pinned(v, t);
	size_t nr = t->nr_runs + 1;

	for (const struct piece *q = p; q < end; q++)
		for (uint32_t s = q->subs; s != UINT32_MAX; s = subs[s].next)
			nr++;
	t->new_runs = xalloc(nr, sizeof(*t->new_runs));
	for (size_t i = 0; i < t->nr_runs; i++, r++) {
		if (r->lcn == LCN_IS_HOLE) {
			add_run(t, *r);
			continue;
		}
		if (r->vcn < keep)
			add_run(t, (struct ntfs_run){r->vcn, r->lcn, keep - r->vcn < r->len ? keep - r->vcn : r->len});
		for (; p < end && p->vcn < r->vcn + r->len; p++) {
			uint64_t vcn = p->vcn;

			for (uint32_t s = p->subs; s != UINT32_MAX; s = subs[s].next) {
				add_run(t, (struct ntfs_run){vcn, (int64_t)subs[s].lcn, subs[s].len});
				vcn += subs[s].len;
			}
		}
	}
}

/* ---- Moving ---- */

/* The clusters that get another's content, in order, and which: destination i of a part is its lcn + i. */
struct part {
	uint64_t lcn, len, old;
	uint64_t index; /* of its first cluster among all destinations */
};

struct moves {
	struct part *parts; /* by lcn */
	size_t nr;
	uint8_t *wanted; /* bits, by index: the old content of this destination is wanted elsewhere */
	uint8_t *done;
};

static int compare_parts(const void *pa, const void *pb)
{
	const struct part *a = pa, *b = pb;

	return a->lcn < b->lcn ? -1 : a->lcn > b->lcn;
}

/* The part that contains the cluster, or NULL if its content stays. */
static const struct part *find_part(const struct moves *m, uint64_t lcn)
{
	size_t lo = 0, hi = m->nr;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (m->parts[mid].lcn + m->parts[mid].len <= lcn)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < m->nr && m->parts[lo].lcn <= lcn ? &m->parts[lo] : NULL;
}

static void collect_parts(struct volume *v, struct moves *m)
{
	const struct piece *p = v->pieces.p;
	const struct sub *subs = v->subs.p;
	uint64_t sum = 0;

	m->parts = xalloc(v->subs.nr, sizeof(*m->parts));
	for (size_t i = 0; i < v->pieces.nr; i++) {
		uint64_t old = p[i].old_lcn;

		for (uint32_t s = p[i].subs; s != UINT32_MAX; old += subs[s].len, s = subs[s].next)
			if (subs[s].lcn != old)
				m->parts[m->nr++] = (struct part){subs[s].lcn, subs[s].len, old, 0};
	}
	if (m->nr)
		qsort(m->parts, m->nr, sizeof(*m->parts), compare_parts);
	for (size_t i = 0; i < m->nr; sum += m->parts[i++].len)
		m->parts[i].index = sum;
	m->wanted = xalloc(sum / 8 + 1, 1);
	m->done = xalloc(sum / 8 + 1, 1);
	for (size_t i = 0; i < m->nr; i++)
		for (uint64_t k = 0; k < m->parts[i].len; k++) {
			const struct part *other = find_part(m, m->parts[i].old + k);

			if (other)
				put_bit(m->wanted, other->index + (m->parts[i].old + k - other->lcn), true);
		}
}

/* Fills the cluster, then the one whose content that was, and so on. */
static void move_chain(struct volume *v, struct moves *m, uint64_t first, uint8_t *spare)
{
	uint64_t cs = v->boot.cluster_size, d = first;
	const struct part *part;

	memcpy(spare, cluster(v, first), cs);
	while ((part = find_part(m, d)) && !bit(m->done, part->index + (d - part->lcn))) {
		uint64_t from = part->old + (d - part->lcn);

		put_bit(m->done, part->index + (d - part->lcn), true);
		memcpy(cluster(v, d), from == first ? spare : cluster(v, from), cs);
		d = from;
	}
}

/*
 * All clusters move at once. Chains begin where the old content is wanted nowhere else; what is left are cycles, which
 * need one cluster of it kept.
 */
static void move_clusters(struct volume *v)
{
	struct moves m = {0};
	uint8_t *spare = xalloc(v->boot.cluster_size, 1);

	collect_parts(v, &m);
	for (int cycles = 0; cycles < 2; cycles++)
		for (size_t i = 0; i < m.nr; i++)
			for (uint64_t k = 0; k < m.parts[i].len; k++) {
				uint64_t index = m.parts[i].index + k;

				if (!bit(m.done, index) && (cycles || !bit(m.wanted, index)))
					move_chain(v, &m, m.parts[i].lcn + k, spare);
			}
	free(spare);
	free(m.done);
	free(m.wanted);
	free(m.parts);
}

/* ---- Writing ---- */

static const struct target *target_of(struct volume *v, uint64_t base, uint32_t type)
{
	const struct target *t = v->targets.p;

	for (size_t i = 0; i < v->targets.nr && t[i].base <= base; i++)
		if (t[i].base == base && t[i].type == type && !t[i].name_len)
			return &t[i];
	return NULL;
}

static struct vec current_runs(struct volume *v, uint64_t base, uint32_t type, struct vec old)
{
	const struct target *t = target_of(v, base, type);

	return t ? (struct vec){t->new_runs, t->nr_new, t->nr_new, sizeof(struct ntfs_run)} : old;
}

static void write_bits(struct volume *v, uint64_t base, uint32_t type, struct vec runs, uint8_t *bits, uint64_t len)
{
	uint8_t *a = find_attr(record(v, base), type, 0);

	if (a && !a[A_NONRES]) {
		memcpy(a + get16(a + A_VALUE_OFS), bits, len);
		v->dirty[base] = true;
	} else {
		copy_runs(v, &runs, bits, len, true);
	}
}

/* Writes a record through $MFT's runs; its fixups are applied on the way. */
static void write_mft_record(struct volume *v, const struct vec *runs, uint64_t no)
{
	uint32_t rs = v->boot.record_size, cs = v->boot.cluster_size, n;
	const struct ntfs_run *r = runs->p;
	uint8_t *rec = record(v, no);
	uint64_t pos = no * rs;
	size_t lo = 0, hi = runs->nr;

	ntfs_fixup_write(rec, rs);
	while (lo + 1 < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (r[mid].vcn <= pos / cs)
			lo = mid;
		else
			hi = mid;
	}
	for (uint32_t done = 0; done < rs; done += n, pos += n) {
		uint64_t vcn = pos / cs, skip = pos % cs;

		n = rs - done < cs - skip ? rs - done : (uint32_t)(cs - skip);
		while (vcn >= r[lo].vcn + r[lo].len)
			lo++;
		memcpy(cluster(v, (uint64_t)r[lo].lcn + vcn - r[lo].vcn) + skip, rec + done, n);
	}
	if (!ntfs_fixup_read(rec, rs))
		die("internal error: fixups of record %" PRIu64, no);
}

static void write_metadata(struct volume *v)
{
	struct vec mft_runs = current_runs(v, 0, AT_DATA, v->mft_runs), mirror = {.item = sizeof(struct ntfs_run)};
	uint32_t rs = v->boot.record_size;
	uint64_t nr_mirror = v->boot.cluster_size / rs > 4 ? v->boot.cluster_size / rs : 4;
	uint8_t *buf = xalloc(nr_mirror, rs);

	write_bits(v, 0, AT_BITMAP, current_runs(v, 0, AT_BITMAP, v->mft_bitmap_runs), v->mft_bitmap,
	           v->mft_bitmap_len);
	write_bits(v, 6, AT_DATA, current_runs(v, 6, AT_DATA, v->bitmap_runs), v->bitmap, v->bitmap_len);
	for (uint64_t i = 0; i < v->nr_recs; i++)
		if (v->dirty[i])
			write_mft_record(v, &mft_runs, i);
	copy_runs(v, &mft_runs, buf, nr_mirror * rs, false);
	decode(v, find_attr(record(v, 1), AT_DATA, 0), &mirror);
	copy_runs(v, &mirror, buf, nr_mirror * rs, true);
	free(mirror.p);
	free(buf);
}

static void poison_free(struct volume *v)
{
	for (uint64_t i = 0; i < v->boot.nr_clusters; i++)
		if (!bit(v->bitmap, i))
			memset(cluster(v, i), 0xdb, v->boot.cluster_size);
}

/* ---- Room for extension records ---- */

static uint64_t missing_records(struct volume *v)
{
	const struct target *t = v->targets.p;
	uint64_t need = 0, free_recs = 0;

	for (size_t i = 0; i < v->targets.nr; i++)
		need += t[i].base ? records_needed(v, &t[i], t[i].nr_pieces + t[i].nr_runs) : 0;
	for (uint64_t i = 24; i < v->nr_recs; i++)
		free_recs += !bit(v->mft_bitmap, i);
	return need > free_recs ? need : 0;
}

static void rewrite_files(struct volume *v)
{
	struct target *t = v->targets.p;

	for (size_t i = 0, k; i < v->targets.nr; i = k) {
		for (k = i; k < v->targets.nr && t[k].base == t[i].base; k++)
			make_runs(v, &t[k]);
		rewrite_file(v, &t[i], k - i);
	}
}

static void scatter(const struct options *o)
{
	uint64_t runs = 0, missing;
	struct volume v;

	for (int round = 0;; round++) {
		load_volume(&v, o);
		find_targets(&v, o);
		cut_targets(&v, o);
		missing = missing_records(&v);
		if (!missing || round)
			break;
		unload_volume(&v);
		if (image_spare_records(o->image, o->offset, missing))
			die("making room in $MFT: %s", strerror(errno));
	}
	place_pieces(&v, &(struct options){.free_pieces = o->free_pieces == UINT64_MAX ? v.pieces.nr / 8 + 1
	                                                                               : o->free_pieces});
	move_clusters(&v);
	rewrite_files(&v);
	write_metadata(&v);
	if (o->poison)
		poison_free(&v);
	for (size_t i = 0; i < v.targets.nr; i++)
		for (size_t k = 0; k < ((struct target *)v.targets.p)[i].nr_new; k++)
			runs += ((struct target *)v.targets.p)[i].new_runs[k].lcn != LCN_IS_HOLE;
	if (!o->quiet)
		printf("%s: %zu attributes in %" PRIu64 " fragments, %" PRIu64 " attribute lists written, %" PRIu64
		       " extension records added\n",
		       o->image, v.targets.nr, runs, v.list_records, v.new_records);
	unload_volume(&v);
}

static uint64_t number(const char *s)
{
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(s, &end, 0);
	if (errno || end == s || *end || *s == '-')
		die("'%s' is no number", s);
	return n;
}

static unsigned parse_what(char *list)
{
	static const struct {
		const char *name;
		unsigned bits;
	} words[] = {{"data", W_DATA},     {"streams", W_STREAMS}, {"dirs", W_DIRS},
	             {"mft", W_MFT},       {"mftbmp", W_MFTBMP},   {"bitmap", W_BITMAP},
	             {"secure", W_SECURE}, {"lists", W_LISTS},     {"other", W_OTHER},
	             {"all", 511}};
	unsigned what = 0;

	for (char *w = strtok(list, ","); w; w = strtok(NULL, ",")) {
		size_t i;

		for (i = 0; i < sizeof(words) / sizeof(*words) && strcmp(w, words[i].name); i++)
			;
		if (i == sizeof(words) / sizeof(*words))
			die("cannot scatter '%s'", w);
		what |= words[i].bits;
	}
	return what;
}

static void usage(FILE *f)
{
	fputs("usage: ntfs-scatter [options] IMAGE\n"
	      "  --offset BYTES     where the volume begins\n"
	      "  --fragments N      cut everything chosen into N pieces together; or, without it,\n"
	      "  --min-run N, --max-run N   into pieces of so many clusters (default 1 to 16)\n"
	      "  --seed N\n"
	      "  --what LIST        data,streams,dirs (these by default),mft,mftbmp,bitmap,secure,lists,other or all\n"
	      "  --only RECORD      nothing but this record's attributes\n"
	      "  --free-pieces N    cut the free space into N pieces (default an eighth as many as the others; 0: "
	      "one)\n"
	      "  --poison           fill free clusters with 0xdb\n"
	      "  --quiet\n",
	      f);
}

static void parse_options(int argc, char **argv, struct options *o)
{
	static const struct option options[] = {
	        {"offset", 1, NULL, 'o'},  {"fragments", 1, NULL, 'n'},   {"min-run", 1, NULL, 'm'},
	        {"max-run", 1, NULL, 'x'}, {"seed", 1, NULL, 's'},        {"what", 1, NULL, 'w'},
	        {"only", 1, NULL, 'r'},    {"free-pieces", 1, NULL, 'f'}, {"poison", 0, NULL, 'p'},
	        {"quiet", 0, NULL, 'q'},   {"help", 0, NULL, 'h'},        {0}};
	int opt;

	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (opt) {
		case 'o':
			o->offset = number(optarg);
			break;
		case 'n':
			o->fragments = number(optarg);
			break;
		case 'm':
			o->min_run = number(optarg);
			break;
		case 'x':
			o->max_run = number(optarg);
			break;
		case 's':
			o->seed = number(optarg);
			break;
		case 'w':
			o->what = parse_what(optarg);
			break;
		case 'r':
			o->only = number(optarg);
			break;
		case 'f':
			o->free_pieces = number(optarg);
			break;
		case 'p':
			o->poison = true;
			break;
		case 'q':
			o->quiet = true;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			exit(2);
		}
	}
	if (!o->max_run)
		o->max_run = o->fragments ? UINT64_MAX / 2 : o->min_run > 16 ? o->min_run : 16;
	if (optind != argc - 1 || !o->min_run || o->max_run < o->min_run) {
		usage(stderr);
		exit(2);
	}
	o->image = argv[optind];
}

int main(int argc, char **argv)
{
	struct options o = {.seed = 1,
	                    .min_run = 1,
	                    .free_pieces = UINT64_MAX,
	                    .only = NO_ONLY,
	                    .what = W_DATA | W_STREAMS | W_DIRS};

	parse_options(argc, argv, &o);
	scatter(&o);
	return 0;
}

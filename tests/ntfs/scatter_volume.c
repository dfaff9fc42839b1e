// SPDX-License-Identifier: GPL-2.0-or-later
/* The volume of ntfs-scatter: into memory, and its metadata back onto the disk. */
#include "ntfs_scatter.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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

uint64_t random_below(struct volume *v, uint64_t n)
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

/* ---- Loading ---- */

uint8_t *find_attr(uint8_t *r, uint32_t type, uint8_t name_len)
{
	for (uint8_t *a = r + get16(r + REC_ATTRS); get32(a) != AT_END; a += get32(a + A_LENGTH))
		if (get32(a) == type && a[A_NAME_LEN] == name_len)
			return a;
	return NULL;
}

void decode(struct volume *v, const uint8_t *a, struct vec *runs)
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

void load_volume(struct volume *v, const struct options *o)
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

void unload_volume(struct volume *v)
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

void write_metadata(struct volume *v)
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

void poison_free(struct volume *v)
{
	for (uint64_t i = 0; i < v->boot.nr_clusters; i++)
		if (!bit(v->bitmap, i))
			memset(cluster(v, i), 0xdb, v->boot.cluster_size);
}

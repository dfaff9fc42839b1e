// SPDX-License-Identifier: GPL-2.0-or-later
/* Attributes as wholes (all their extents together), who owns which cluster, and the two bitmaps. */
#include "ntfs_check.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK (1u << 20)

static const struct extent *sort_extents; /* qsort has no context argument; single-threaded */

static int compare_extents(const void *pa, const void *pb)
{
	const struct extent *a = sort_extents + *(const uint32_t *)pa, *b = sort_extents + *(const uint32_t *)pb;

	if (a->base != b->base)
		return a->base < b->base ? -1 : 1;
	if (a->type != b->type)
		return a->type < b->type ? -1 : 1;
	if (a->name != b->name)
		return a->name < b->name ? -1 : 1;
	if (a->lowest != b->lowest)
		return a->lowest < b->lowest ? -1 : 1;
	return a->rec != b->rec ? a->rec < b->rec ? -1 : 1 : (a > b) - (a < b);
}

/*
 * Most extents are alone in base records and come sorted but for the numbers of names: insertion sort them.
 * Those of records with attribute lists are sorted apart and merged.
 */
static void sort_order(struct check *c)
{
	const struct extent *x = c->extents.p;
	size_t nr = c->extents.nr, nr_simple = 0, nr_other = 0, i, k, out = 0;
	uint32_t *simple = xrealloc(NULL, nr, sizeof(*simple)), *other = xrealloc(NULL, nr, sizeof(*other));

	sort_extents = x;
	for (i = 0; i < nr; i++) {
		if (x[i].base != x[i].rec || c->recs[x[i].rec].has_list) {
			other[nr_other++] = (uint32_t)i;
			continue;
		}
		for (k = nr_simple++; k && x[simple[k - 1]].base == x[i].base; k--) {
			if (compare_extents(&simple[k - 1], &(uint32_t){(uint32_t)i}) <= 0)
				break;
			simple[k] = simple[k - 1];
		}
		simple[k] = (uint32_t)i;
	}
	qsort(other, nr_other, sizeof(*other), compare_extents);
	c->order = xrealloc(NULL, nr, sizeof(*c->order));
	for (i = k = 0; i < nr_simple || k < nr_other;) {
		if (k == nr_other || (i < nr_simple && compare_extents(&simple[i], &other[k]) <= 0))
			c->order[out++] = simple[i++];
		else
			c->order[out++] = other[k++];
	}
	free(simple);
	free(other);
}

static int compare_values(const void *pa, const void *pb)
{
	const struct value *a = pa, *b = pb;

	if (a->base != b->base)
		return a->base < b->base ? -1 : 1;
	if (a->type != b->type)
		return a->type < b->type ? -1 : 1;
	return (a->name > b->name) - (a->name < b->name);
}

void build_groups(struct check *c)
{
	const struct extent *x = c->extents.p;
	struct value *v = c->values.p;

	if (c->extents.nr >= UINT32_MAX)
		die("too many extents");
	sort_order(c);
	c->groups = xrealloc(NULL, c->extents.nr, sizeof(*c->groups));
	for (size_t i = 0; i < c->extents.nr; i++) {
		const struct extent *e = &x[c->order[i]];
		struct group *g = c->nr_groups ? &c->groups[c->nr_groups - 1] : NULL;

		if (g && g->base == e->base && g->type == e->type && g->name == e->name)
			g->nr++;
		else
			c->groups[c->nr_groups++] = (struct group){e->base, e->type, e->name, i, 1};
	}
	for (size_t i = 1; i < c->values.nr; i++) {
		if (compare_values(&v[i - 1], &v[i]) > 0) {
			qsort(v, c->values.nr, sizeof(*v), compare_values);
			break;
		}
	}
}

struct group *find_group(struct check *c, uint64_t base, uint32_t type, uint32_t name)
{
	size_t lo = 0, hi = c->nr_groups;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct group *g = &c->groups[mid];

		if (g->base == base && g->type == type && g->name == name)
			return &c->groups[mid];
		if (g->base < base || (g->base == base && (g->type < type || (g->type == type && g->name < name))))
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

struct value *find_value(struct check *c, uint64_t base, uint32_t type, uint32_t name)
{
	struct value key = {.base = base, .type = type, .name = name};

	return c->values.nr ? bsearch(&key, c->values.p, c->values.nr, sizeof(key), compare_values) : NULL;
}

struct extent *group_extent(struct check *c, const struct group *g, size_t i)
{
	return (struct extent *)c->extents.p + c->order[g->first + i];
}

uint64_t group_clusters(struct check *c, const struct group *g)
{
	return (uint64_t)group_extent(c, g, g->nr - 1)->highest + 1;
}

/* Reads bytes of a non-resident attribute; nothing beyond its initialised size is looked at by anyone here. */
bool read_group(struct check *c, const struct group *g, uint64_t pos, void *buf, size_t len)
{
	uint64_t cs = c->boot.cluster_size;

	for (size_t i = 0; i < g->nr && len; i++) {
		const struct extent *e = group_extent(c, g, i);
		uint64_t end = ((uint64_t)e->highest + 1) * cs;
		size_t n;

		if (e->broken || (uint64_t)e->highest > UINT64_MAX / cs / 2)
			return false;
		if (pos >= end || pos < (uint64_t)e->lowest * cs)
			continue;
		n = end - pos < len ? (size_t)(end - pos) : len;
		if (!read_runs(c, (struct ntfs_run *)c->runs.p + e->first_run, e->nr_runs, pos, buf, n))
			return false;
		buf = (char *)buf + n;
		pos += n;
		len -= n;
	}
	return !len;
}

/* A whole attribute, resident or not, in new memory; NULL if it is absent, unreadable or larger than @max. */
void *load_attribute(struct check *c, uint64_t base, uint32_t type, uint32_t name, uint64_t max, uint64_t *len)
{
	struct value *v = find_value(c, base, type, name);
	struct group *g = v ? NULL : find_group(c, base, type, name);
	struct extent *e = g ? group_extent(c, g, 0) : NULL;
	void *buf;

	*len = v ? v->len : e && !e->lowest ? e->data : 0;
	if ((!v && !e) || *len > max || (e && *len > group_clusters(c, g) * c->boot.cluster_size)) {
		*len = 0;
		return NULL;
	}
	buf = xrealloc(NULL, *len, 1);
	if (v) {
		memcpy(buf, (uint8_t *)c->pool.p + v->pos, *len);
	} else if (!read_group(c, g, 0, buf, *len)) {
		free(buf);
		*len = 0;
		return NULL;
	}
	return buf;
}

/* In each unit of a compressed attribute real clusters come first, and only then a hole. */
static void check_compression_units(struct check *c, const struct group *g, unsigned unit)
{
	uint64_t size = 1ULL << unit, hole_in = UINT64_MAX; /* unit in which a hole was seen last */

	for (size_t i = 0; i < g->nr; i++) {
		const struct extent *e = group_extent(c, g, i);
		const struct ntfs_run *r = (struct ntfs_run *)c->runs.p + e->first_run;

		for (size_t k = 0; k < e->nr_runs; k++, r++) {
			if (r->lcn == LCN_IS_HOLE) {
				hole_in = (r->vcn + r->len) % size ? (r->vcn + r->len) / size : UINT64_MAX;
			} else if (r->vcn / size == hole_in) {
				finding(c, e->rec, "compression",
				        "%s: clusters after the hole of the unit at VCN 0x%" PRIx64,
				        attr_label(c, e->type, e->name), hole_in * size);
				return;
			}
		}
	}
}

static uint64_t real_clusters(struct check *c, const struct group *g)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < g->nr; i++) {
		const struct extent *e = group_extent(c, g, i);
		const struct ntfs_run *r = (struct ntfs_run *)c->runs.p + e->first_run;

		for (size_t k = 0; k < e->nr_runs; k++)
			sum += r[k].lcn == LCN_IS_HOLE ? 0 : r[k].len;
	}
	return sum;
}

static void check_sizes(struct check *c, const struct group *g, const struct extent *e)
{
	uint64_t cs = c->boot.cluster_size, clusters = group_clusters(c, g), real = real_clusters(c, g);
	const char *label = attr_label(c, g->type, g->name);
	unsigned compressed = e->flags & AF_COMPRESSION_MASK;

	if (clusters > UINT64_MAX / cs || e->alloc != clusters * cs)
		finding(c, e->rec, "sizes", "%s: allocated size %" PRIu64 ", but %" PRIu64 " clusters are mapped",
		        label, e->alloc, clusters);
	if (e->data > e->alloc)
		finding(c, e->rec, "sizes", "%s: data size %" PRIu64 " exceeds the allocated size %" PRIu64, label,
		        e->data, e->alloc);
	if (e->init > e->data)
		finding(c, e->rec, "sizes", "%s: initialised size %" PRIu64 " exceeds the data size %" PRIu64, label,
		        e->init, e->data);
	if (e->flags & (AF_SPARSE | AF_COMPRESSION_MASK) && e->comp != real * cs)
		finding(c, e->rec, "sizes", "%s: compressed size %" PRIu64 ", but %" PRIu64 " clusters are allocated",
		        label, e->comp, real);
	if (!compressed)
		return;
	if (compressed != 1 || e->unit != 4 || cs > 4096)
		finding(c, e->rec, "compression", "%s: compression method %u, unit 2^%u clusters of %" PRIu64, label,
		        compressed, e->unit, cs);
	else if (clusters % 16)
		finding(c, e->rec, "compression", "%s: %" PRIu64 " clusters are no whole compression units", label,
		        clusters);
	else
		check_compression_units(c, g, e->unit);
}

static void check_group(struct check *c, const struct group *g)
{
	int64_t next = 0;
	bool broken = false;

	for (size_t i = 0; i < g->nr; i++) {
		const struct extent *e = group_extent(c, g, i);

		if (e->lowest != next) {
			finding(c, e->rec, "extent-gap",
			        "%s: an extent begins at VCN 0x%" PRIx64 " instead of 0x%" PRIx64,
			        attr_label(c, g->type, g->name), (uint64_t)e->lowest, (uint64_t)next);
			return;
		}
		if (e->flags != group_extent(c, g, 0)->flags)
			finding(c, e->rec, "extent-gap", "%s: its extents have different flags",
			        attr_label(c, g->type, g->name));
		next = e->highest + 1;
		broken |= e->broken;
	}
	if (!broken)
		check_sizes(c, g, group_extent(c, g, 0));
}

static void check_base_record(struct check *c, uint64_t no)
{
	const struct record *r = &c->recs[no];

	if (!r->has_si && no >= 24)
		finding(c, no, "attribute", "no $STANDARD_INFORMATION");
	if (!r->names && no >= 24)
		finding(c, no, "orphan", "a file without a name");
	if (r->links != r->names && r->links != r->names - r->dos_names)
		finding(c, no, "links", "link count %u, but %u names (%u of them DOS names)", r->links, r->names,
		        r->dos_names);
	if (r->directory != r->has_root)
		finding(c, no, "header",
		        r->directory ? "a directory without $INDEX_ROOT:$I30"
		                     : "$INDEX_ROOT:$I30 in a record that is no directory");
}

static void check_extension_record(struct check *c, uint64_t no)
{
	const struct record *r = &c->recs[no];
	uint64_t base = REF_RECORD(r->base_ref);

	if (base >= c->nr_recs || c->recs[base].state != RS_BASE)
		finding(c, no, "base-reference", "its base record %" PRIu64 " is no base record in use", base);
	else if (c->recs[base].seq != REF_SEQ(r->base_ref))
		finding(c, no, "base-reference", "sequence number %u of its base record %" PRIu64 " should be %u",
		        REF_SEQ(r->base_ref), base, c->recs[base].seq);
	else if (!r->referenced)
		finding(c, no, "orphan-extension", "no attribute list names this extension record of %" PRIu64, base);
}

void check_groups(struct check *c)
{
	for (uint64_t i = 0; i < c->nr_recs; i++) {
		if (c->recs[i].state == RS_BASE)
			check_base_record(c, i);
		else if (c->recs[i].state == RS_EXTENSION)
			check_extension_record(c, i);
	}
	for (size_t i = 0; i < c->nr_groups; i++)
		check_group(c, &c->groups[i]);
}

void check_mft_bitmap(struct check *c)
{
	uint64_t len;
	uint8_t *bits = load_attribute(c, 0, AT_BITMAP, 0, 1ULL << 32, &len);

	if (!bits || len * 8 < c->nr_recs) {
		finding(c, 0, "mft-bitmap", "%" PRIu64 " bytes for %" PRIu64 " records", len, c->nr_recs);
		free(bits);
		return;
	}
	for (uint64_t i = 0; i < len * 8; i++) {
		bool set = bits[i / 8] >> (i % 8) & 1;
		enum record_state state = i < c->nr_recs ? c->recs[i].state : RS_FREE;
		bool used = state == RS_BASE || state == RS_EXTENSION || (state == RS_TORN && set);

		if (!(i % 8) && !bits[i / 8] && i >= c->nr_recs) {
			i += 7;
			continue;
		}
		if (set == used || (i >= 16 && i < 24)) /* 16-23 are reserved and marked or not, as the writer likes */
			continue;
		finding(c, i, "mft-bitmap",
		        set ? i < c->nr_recs ? "marked as used, but is not"
		                             : "marked as used, but is beyond the end of $MFT"
		            : "in use, but marked as free");
	}
	free(bits);
}

struct owned {
	uint64_t lcn, len;
	uint32_t extent;
};

static int compare_owned(const void *pa, const void *pb)
{
	const struct owned *a = pa, *b = pb;

	return a->lcn != b->lcn ? a->lcn < b->lcn ? -1 : 1 : (a->extent > b->extent) - (a->extent < b->extent);
}

struct bitmap {
	struct group *g;
	uint64_t data, base; /* bytes of the attribute; first byte in buf */
	uint8_t *buf;
	bool broken;
};

/* The byte of $Bitmap for cluster @lcn; the callers go upwards. */
static unsigned bitmap_byte(struct check *c, struct bitmap *b, uint64_t lcn)
{
	uint64_t byte = lcn / 8, n;

	if (b->broken || byte >= b->data)
		return 0;
	if (byte >= b->base + CHUNK || byte < b->base || b->base == UINT64_MAX) {
		b->base = byte / CHUNK * CHUNK;
		n = b->data - b->base < CHUNK ? b->data - b->base : CHUNK;
		if (!read_group(c, b->g, b->base, b->buf, n)) {
			finding(c, 6, "bitmap", "$Bitmap cannot be read at byte %" PRIu64, b->base);
			b->broken = true;
			return 0;
		}
	}
	return b->buf[byte - b->base];
}

/* The first cluster in [lcn, end) whose bit is not @set, or @end. */
static uint64_t bitmap_scan(struct check *c, struct bitmap *b, uint64_t lcn, uint64_t end, bool set)
{
	while (lcn < end && !b->broken) {
		unsigned byte = bitmap_byte(c, b, lcn);

		if (!(lcn % 8) && byte == (set ? 0xff : 0) && end - lcn >= 8)
			lcn += 8;
		else if ((byte >> (lcn % 8) & 1) == set)
			lcn++;
		else
			return lcn;
	}
	return end;
}

static void check_unowned(struct check *c, struct bitmap *b, uint64_t from, uint64_t to, bool tail)
{
	while (from < to) {
		uint64_t lost = bitmap_scan(c, b, from, to, false), end;

		if (lost >= to)
			break;
		end = bitmap_scan(c, b, lost, to, true);
		if (!tail)
			warning(c, 6, "lost-clusters",
			        "clusters 0x%" PRIx64 "+0x%" PRIx64 " are marked as used and nobody's", lost,
			        end - lost);
		from = end;
	}
}

static void check_owned(struct check *c, struct bitmap *b, uint64_t from, uint64_t to, const struct extent *e)
{
	uint64_t clear = bitmap_scan(c, b, from, to, true);

	if (clear < to)
		finding(c, e->rec, "bitmap", "%s: its cluster 0x%" PRIx64 " is marked as free",
		        attr_label(c, e->type, e->name), clear);
}

static void check_bitmap_tail(struct check *c, struct bitmap *b)
{
	uint64_t end = b->data * 8;

	if (b->data < (c->boot.nr_clusters + 7) / 8) {
		finding(c, 6, "bitmap", "$Bitmap has %" PRIu64 " bytes for %" PRIu64 " clusters", b->data,
		        c->boot.nr_clusters);
		return;
	}
	if (end > c->boot.nr_clusters && bitmap_scan(c, b, c->boot.nr_clusters, end, true) != end)
		finding(c, 6, "bitmap-tail", "bits beyond the end of the volume are clear");
}

static void check_special_places(struct check *c)
{
	struct group *boot = find_group(c, 7, AT_DATA, 0);
	struct extent *e = boot ? group_extent(c, boot, 0) : NULL;

	if (!e || !e->nr_runs || ((struct ntfs_run *)c->runs.p)[e->first_run].lcn)
		finding(c, 7, "boot", "$Boot is not at cluster 0");
}

static void sweep_owned(struct check *c, const struct owned *own, size_t nr, struct bitmap *b)
{
	const struct extent *x = c->extents.p;
	uint64_t next = 0;
	char label[300];

	for (size_t i = 0; i < nr; i++) {
		const struct extent *e = &x[own[i].extent], *prev = i ? &x[own[i - 1].extent] : NULL;
		uint64_t from = own[i].lcn, end = from + own[i].len;

		if (prev && from < next) {
			snprintf(label, sizeof(label), "%s", attr_label(c, prev->type, prev->name));
			finding(c, e->rec, "cross-link",
			        "%s: cluster 0x%" PRIx64 " also belongs to %s of record %" PRIu64,
			        attr_label(c, e->type, e->name), from, label, prev->rec);
			from = end < next ? end : next;
		}
		check_unowned(c, b, next, from, false);
		check_owned(c, b, from, end, e);
		next = end > next ? end : next;
	}
	check_unowned(c, b, next, c->boot.nr_clusters, false);
}

void check_ownership(struct check *c)
{
	const struct extent *x = c->extents.p;
	const struct ntfs_run *runs = c->runs.p;
	struct owned *own = xrealloc(NULL, c->runs.nr, sizeof(*own));
	struct bitmap b = {.g = find_group(c, 6, AT_DATA, 0), .base = UINT64_MAX, .buf = xrealloc(NULL, CHUNK, 1)};
	size_t nr = 0;

	for (size_t i = 0; i < c->extents.nr; i++)
		for (size_t k = x[i].first_run; k < x[i].first_run + x[i].nr_runs; k++)
			if (runs[k].lcn != LCN_IS_HOLE)
				own[nr++] = (struct owned){(uint64_t)runs[k].lcn, runs[k].len, (uint32_t)i};
	qsort(own, nr, sizeof(*own), compare_owned);
	if (b.g) {
		b.data = group_extent(c, b.g, 0)->data;
		check_bitmap_tail(c, &b);
	} else {
		finding(c, 6, "bitmap", "no $Bitmap");
		b.broken = true;
	}
	sweep_owned(c, own, nr, &b);
	check_special_places(c);
	free(b.buf);
	free(own);
}

/* Calls @fn for each run of an attribute with neighbours merged where both VCN and LCN go on. */
typedef void (*run_fn)(struct check *c, const struct group *g, const struct ntfs_run *run, void *arg);

static void for_merged_runs(struct check *c, const struct group *g, run_fn fn, void *arg)
{
	struct ntfs_run cur = {0};

	for (size_t i = 0; i < g->nr; i++) {
		const struct extent *e = group_extent(c, g, i);
		const struct ntfs_run *r = (struct ntfs_run *)c->runs.p + e->first_run;

		for (size_t k = 0; k < e->nr_runs; k++, r++) {
			bool follows = cur.len && r->vcn == cur.vcn + cur.len &&
			               (r->lcn == LCN_IS_HOLE
			                        ? cur.lcn == LCN_IS_HOLE
			                        : cur.lcn != LCN_IS_HOLE && r->lcn == cur.lcn + (int64_t)cur.len);

			if (follows) {
				cur.len += r->len;
				continue;
			}
			if (cur.len)
				fn(c, g, &cur, arg);
			cur = *r;
		}
	}
	if (cur.len)
		fn(c, g, &cur, arg);
}

static void print_extent(struct check *c, const struct group *g, const struct ntfs_run *run, void *arg)
{
	printf("%" PRIu64 " 0x%x %s %" PRIu64 " %" PRId64 " %" PRIu64 "\n", g->base, g->type, (const char *)arg,
	       run->vcn, run->lcn, run->len);
}

void print_extents(struct check *c)
{
	char name[1024];

	for (size_t i = 0; i < c->nr_groups; i++)
		for_merged_runs(c, &c->groups[i], print_extent, name_text(c, c->groups[i].name, name, sizeof(name)));
}

struct counted {
	uint64_t fragments, clusters;
	int64_t next; /* the LCN after the last real run: a hole between two adjacent runs makes no fragment */
};

static void count_run(struct check *c, const struct group *g, const struct ntfs_run *run, void *arg)
{
	struct counted *n = arg;

	if (run->lcn == LCN_IS_HOLE)
		return;
	n->fragments += run->lcn != n->next || !n->fragments;
	n->clusters += run->len;
	n->next = run->lcn + (int64_t)run->len;
}

void print_fragments(struct check *c)
{
	uint64_t fragments = 0, clusters = 0, fragmented = 0;
	char name[1024];

	for (size_t i = 0; i < c->nr_groups; i++) {
		const struct group *g = &c->groups[i];
		struct counted n = {0};

		for_merged_runs(c, g, count_run, &n);
		printf("%" PRIu64 " 0x%x %s %" PRIu64 " %" PRIu64 "\n", g->base, g->type,
		       name_text(c, g->name, name, sizeof(name)), n.fragments, n.clusters);
		fragments += n.fragments;
		clusters += n.clusters;
		fragmented += n.fragments > 1;
	}
	printf("total attributes %zu fragmented %" PRIu64 " fragments %" PRIu64 " clusters %" PRIu64 "\n", c->nr_groups,
	       fragmented, fragments, clusters);
}

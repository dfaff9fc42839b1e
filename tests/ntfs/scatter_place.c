// SPDX-License-Identifier: GPL-2.0-or-later
/* Where the pieces go: shuffled together with pieces of the free space over all clusters that both have. */
#include "ntfs_scatter.h"

#include <stdlib.h>

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
void place_pieces(struct volume *v, const struct options *o)
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
void make_runs(struct volume *v, struct target *t)
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

// SPDX-License-Identifier: GPL-2.0-or-later
/* Moving the clusters to where the plan has them. */
#include "ntfs_scatter.h"

#include <stdlib.h>

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
void move_clusters(struct volume *v)
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

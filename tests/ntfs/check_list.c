// SPDX-License-Identifier: GPL-2.0-or-later
/* Attribute lists of ntfs-check: each entry names exactly one attribute record, and each attribute record is named. */
#include "ntfs_check.h"

#include <inttypes.h>
#include <stdlib.h>

#define MAX_LIST (256u << 10)

static int compare_listed(const void *pa, const void *pb)
{
	const struct listed *a = pa, *b = pb;

	if (a->rec != b->rec)
		return a->rec < b->rec ? -1 : 1;
	return (a->instance > b->instance) - (a->instance < b->instance);
}

static struct listed *find_listed(struct check *c, uint64_t rec, uint16_t instance)
{
	struct listed key = {.rec = rec, .instance = instance};

	return c->listed.nr ? bsearch(&key, c->listed.p, c->listed.nr, sizeof(key), compare_listed) : NULL;
}

static bool entry_fits(const uint8_t *e, uint64_t left)
{
	uint32_t len = left >= L_HEADER ? get16(e + L_LENGTH) : 0;

	return len >= L_HEADER && len % 8 == 0 && len <= left &&
	       (!e[L_NAME_LEN] || (e[L_NAME_OFS] >= L_HEADER && e[L_NAME_OFS] + 2u * e[L_NAME_LEN] <= len));
}

static void check_entry_order(struct check *c, uint64_t base, const uint8_t *prev, const uint8_t *e)
{
	int cmp;

	if (get32(prev) != get32(e)) {
		cmp = get32(prev) < get32(e) ? -1 : 1;
	} else {
		cmp = compare_names(c, prev + prev[L_NAME_OFS], prev[L_NAME_LEN], e + e[L_NAME_OFS], e[L_NAME_LEN]);
		if (!cmp && get32(e) != AT_FILE_NAME) /* several names of a file come in any order */
			cmp = get64(prev + L_LOWEST) < get64(e + L_LOWEST) ? -1 : 1;
	}
	if (cmp > 0)
		finding(c, base, "list-order", "attribute list: 0x%x at VCN 0x%" PRIx64 " is out of order", get32(e),
		        get64(e + L_LOWEST));
}

static void check_entry(struct check *c, uint64_t base, const uint8_t *e)
{
	uint64_t ref = get64(e + L_REF), rec = REF_RECORD(ref);
	uint32_t name = intern_name(c, e + e[L_NAME_OFS], e[L_NAME_LEN]);
	struct listed *l = find_listed(c, rec, get16(e + L_INSTANCE));
	const char *label = attr_label(c, get32(e), name);

	if (rec >= c->nr_recs || (c->recs[rec].state != RS_BASE && c->recs[rec].state != RS_EXTENSION)) {
		finding(c, base, "list-entry",
		        "attribute list: %s is said to be in record %" PRIu64 ", which is not in use", label, rec);
	} else if (c->recs[rec].seq != REF_SEQ(ref)) {
		finding(c, base, "list-entry",
		        "attribute list: %s: sequence number %u of record %" PRIu64 " should be %u", label,
		        REF_SEQ(ref), rec, c->recs[rec].seq);
	} else if (!l || l->base != base) {
		finding(c, base, "list-entry", "attribute list: %s instance %u is not in record %" PRIu64, label,
		        get16(e + L_INSTANCE), rec);
	} else if (l->type != get32(e) || l->name != name || l->lowest != (int64_t)get64(e + L_LOWEST)) {
		finding(c, base, "list-entry",
		        "attribute list: %s at VCN 0x%" PRIx64 ": record %" PRIu64 " has type 0x%x at "
		        "VCN 0x%" PRIx64 " there",
		        label, get64(e + L_LOWEST), rec, l->type, (uint64_t)l->lowest);
	} else if (l->seen) {
		finding(c, base, "list-entry", "attribute list: %s is listed twice", label);
	} else {
		l->seen = true;
		c->recs[rec].referenced = true;
	}
}

static void check_list(struct check *c, uint64_t base)
{
	uint64_t len;
	uint8_t *list = load_attribute(c, base, AT_LIST, 0, MAX_LIST, &len), *prev = NULL;

	if (!list)
		finding(c, base, "attribute-list", "the attribute list cannot be read or is too long");
	for (uint64_t ofs = 0; list && ofs < len; ofs += get16(list + ofs + L_LENGTH)) {
		if (!entry_fits(list + ofs, len - ofs)) {
			finding(c, base, "attribute-list", "malformed entry at byte %" PRIu64 " of the attribute list",
			        ofs);
			break;
		}
		if (prev)
			check_entry_order(c, base, prev, list + ofs);
		check_entry(c, base, list + ofs);
		prev = list + ofs;
	}
	free(list);
}

static void check_unlisted(struct check *c)
{
	const struct listed *l = c->listed.p;

	for (size_t i = 0; i < c->listed.nr; i++) {
		if (l[i].seen || l[i].base >= c->nr_recs || c->recs[l[i].base].state != RS_BASE)
			continue; /* a bad base reference is reported once, with the record */
		if (!c->recs[l[i].base].has_list)
			finding(c, l[i].rec, "list-missing", "%s: base record %" PRIu64 " has no attribute list",
			        attr_label(c, l[i].type, l[i].name), l[i].base);
		else
			finding(c, l[i].rec, "list-missing",
			        "%s at VCN 0x%" PRIx64 " is not in the attribute list of record %" PRIu64,
			        attr_label(c, l[i].type, l[i].name), (uint64_t)l[i].lowest, l[i].base);
	}
}

void check_attribute_lists(struct check *c)
{
	if (c->listed.nr)
		qsort(c->listed.p, c->listed.nr, c->listed.item, compare_listed);
	for (uint64_t i = 0; i < c->nr_recs; i++)
		if (c->recs[i].state == RS_BASE && c->recs[i].has_list)
			check_list(c, i);
	check_unlisted(c);
}

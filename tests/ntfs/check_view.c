// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the view indexes say, in ntfs-check: security descriptors ($Secure: the stream, its copy, both indexes, and who
 * uses which), object ids and reparse points ($Extend). And whether all directories hang together.
 */
#include "ntfs_check.h"

#include <inttypes.h>
#include <stdlib.h>

#define SECURE        9
#define SDS_BLOCK     0x40000u /* bytes of $SDS, behind which comes their copy */
#define SDS_HEADER    20u      /* hash, id, offset, length */
#define SDS_MAX       (1u << 28)
#define REPARSE_MAX   16384u
#define OBJECT_ID_LEN 16u

static bool name_is(struct check *c, uint32_t name, const char *ascii)
{
	const struct name *n = (struct name *)c->names.p + name;
	const uint8_t *u = (uint8_t *)c->pool.p + n->pos;

	if (n->len != strlen(ascii))
		return false;
	for (uint32_t i = 0; i < n->len; i++)
		if (get16(u + 2 * i) != (uint8_t)ascii[i])
			return false;
	return true;
}

/* Keeps an entry of a view index: key and data, as far as they are looked at. */
void note_view_entry(struct check *c, uint64_t base, uint32_t name, const uint8_t *e)
{
	struct view *v = vec_add(&c->views, 1);
	uint32_t key = get16(e + IE_KEY_LEN), data = get16(e + 2), at = get16(e), len = get16(e + IE_LENGTH);

	*v = (struct view){.base = base, .name = name, .key_len = key};
	memcpy(v->key, e + IE_KEY, key < sizeof(v->key) ? key : sizeof(v->key));
	if (!data)
		return;
	if (at < IE_KEY + key || at + data > len - (get16(e + IE_FLAGS) & IEF_NODE ? 8u : 0u)) {
		finding(c, base, "index-entry", "data at %u of %u bytes do not fit an entry of %u", at, data, len);
		return;
	}
	v->data_len = data;
	memcpy(v->data, e + at, data < sizeof(v->data) ? data : sizeof(v->data));
}

static uint32_t descriptor_hash(const uint8_t *p, uint32_t len)
{
	uint32_t hash = 0;

	for (; len >= 4; len -= 4, p += 4)
		hash = get32(p) + (hash >> 29 | hash << 3);
	return hash;
}

/* @data is what an index says of a descriptor: the same 20 bytes stand before it in $SDS. */
static void check_descriptor(struct check *c, const uint8_t *data, const uint8_t *sds, uint64_t size)
{
	uint64_t at = get64(data + 8);
	uint32_t id = get32(data + 4), len = get32(data + 16);

	if (len < SDS_HEADER || len > SDS_BLOCK || at % 16 || at / SDS_BLOCK % 2 || at > size ||
	    at % SDS_BLOCK + len > SDS_BLOCK || size - at < len || memcmp(sds + at, data, SDS_HEADER)) {
		finding(c, SECURE, "security", "descriptor %u is not at 0x%" PRIx64 " of $SDS", id, at);
		return;
	}
	if (descriptor_hash(sds + at + SDS_HEADER, len - SDS_HEADER) != get32(data))
		finding(c, SECURE, "security", "descriptor %u has another hash", id);
	if (size < at + SDS_BLOCK || size - at - SDS_BLOCK < len || memcmp(sds + at, sds + at + SDS_BLOCK, len))
		finding(c, SECURE, "security", "descriptor %u and its copy in $SDS differ", id);
}

static int compare_ids(const void *pa, const void *pb)
{
	uint32_t a = get32((*(const struct view *const *)pa)->data + 4);
	uint32_t b = get32((*(const struct view *const *)pb)->data + 4);

	return (a > b) - (a < b);
}

/* The entries of one index of $Secure, by id. */
static const struct view **secure_entries(struct check *c, const char *name, size_t *nr)
{
	const struct view *v = c->views.p;
	const struct view **found = xrealloc(NULL, c->views.nr, sizeof(*found));

	*nr = 0;
	for (size_t i = 0; i < c->views.nr; i++) {
		if (v[i].base != SECURE || !name_is(c, v[i].name, name))
			continue;
		if (v[i].data_len != SDS_HEADER)
			finding(c, SECURE, "security", "an entry of %s has %u bytes of data", name, v[i].data_len);
		else
			found[(*nr)++] = &v[i];
	}
	if (*nr)
		qsort(found, *nr, sizeof(*found), compare_ids);
	return found;
}

static void check_users(struct check *c, const struct view **by_id, size_t nr)
{
	for (uint64_t i = 0; i < c->nr_recs; i++) {
		uint32_t id = c->recs[i].security_id;
		struct view key = {0}, *k = &key;

		put32(key.data + 4, id);
		if (id && (!nr || !bsearch(&k, by_id, nr, sizeof(*by_id), compare_ids)))
			finding(c, i, "security", "there is no security descriptor %u", id);
	}
}

static void check_secure(struct check *c)
{
	static const uint8_t sds_name[] = {'$', 0, 'S', 0, 'D', 0, 'S', 0};
	size_t nr_ids, nr_hashes;
	const struct view **ids = secure_entries(c, "$SII", &nr_ids), **hashes = secure_entries(c, "$SDH", &nr_hashes);
	uint64_t size;
	uint8_t *sds = load_attribute(c, SECURE, AT_DATA, intern_name(c, sds_name, 4), SDS_MAX, &size);

	if (!sds)
		finding(c, SECURE, "security", "$SDS cannot be read");
	for (size_t i = 0; sds && i < nr_ids; i++) {
		if (get32(ids[i]->key) != get32(ids[i]->data + 4))
			finding(c, SECURE, "security", "$SII has descriptor %u under %u", get32(ids[i]->data + 4),
			        get32(ids[i]->key));
		check_descriptor(c, ids[i]->data, sds, size);
	}
	if (nr_ids != nr_hashes)
		finding(c, SECURE, "security", "$SII has %zu descriptors and $SDH %zu", nr_ids, nr_hashes);
	for (size_t i = 0; i < nr_ids && i < nr_hashes; i++)
		if (memcmp(ids[i]->data, hashes[i]->data, SDS_HEADER) || memcmp(hashes[i]->key, hashes[i]->data, 8))
			finding(c, SECURE, "security", "$SDH and $SII do not agree on descriptor %u",
			        get32(ids[i]->data + 4));
	check_users(c, ids, nr_ids);
	free(sds);
	free(ids);
	free(hashes);
}

/* The record that an entry leads to, if it is the live base record meant; otherwise a finding. */
static bool leads_to_file(struct check *c, const struct view *v, uint64_t ref)
{
	uint64_t rec = REF_RECORD(ref);

	if (rec < c->nr_recs && c->recs[rec].state == RS_BASE && c->recs[rec].seq == REF_SEQ(ref))
		return true;
	finding(c, v->base, "index-entry", "an entry leads to record %" PRIu64 ", which is not the file meant", rec);
	return false;
}

static void check_object_id(struct check *c, const struct view *v)
{
	uint64_t ref = get64(v->data), len;
	uint8_t *id;

	if (v->key_len != OBJECT_ID_LEN || v->data_len < 8 || !leads_to_file(c, v, ref))
		return;
	id = load_attribute(c, REF_RECORD(ref), AT_OBJECT_ID, 0, REPARSE_MAX, &len);
	if (!id || len < OBJECT_ID_LEN || memcmp(id, v->key, OBJECT_ID_LEN))
		finding(c, REF_RECORD(ref), "object-id", "the index has another object id for this file");
	c->recs[REF_RECORD(ref)].id_indexed = true;
	free(id);
}

static void check_reparse(struct check *c, const struct view *v)
{
	uint64_t ref = get64(v->key + 4), len;
	uint8_t *point;

	if (v->key_len != 12 || !leads_to_file(c, v, ref))
		return;
	point = load_attribute(c, REF_RECORD(ref), AT_REPARSE, 0, REPARSE_MAX, &len);
	if (!point || len < 8 || get32(point) != get32(v->key))
		finding(c, REF_RECORD(ref), "reparse", "the index has another reparse tag for this file");
	c->recs[REF_RECORD(ref)].reparse_indexed = true;
	free(point);
}

static void check_extend(struct check *c)
{
	const struct view *v = c->views.p;
	bool any_reparse = false, any_id = false;

	for (size_t i = 0; i < c->views.nr; i++) {
		if (name_is(c, v[i].name, "$R")) {
			check_reparse(c, &v[i]);
			any_reparse = true;
		} else if (name_is(c, v[i].name, "$O") && v[i].data_len >= 8 && v[i].key_len == OBJECT_ID_LEN) {
			check_object_id(c, &v[i]);
			any_id = true;
		}
	}
	for (uint64_t i = 24; i < c->nr_recs; i++) {
		if (c->recs[i].has_object_id && any_id && !c->recs[i].id_indexed)
			finding(c, i, "object-id", "its object id is not in the index");
		if (c->recs[i].has_reparse && any_reparse && !c->recs[i].reparse_indexed)
			finding(c, i, "reparse", "its reparse point is not in the index");
	}
}

/* From every directory the way up ends at the root. */
static void check_paths(struct check *c)
{
	enum { UNKNOWN, HANGS, ON_THE_WAY };
	uint8_t *mark = xrealloc(NULL, c->nr_recs, 1);

	memset(mark, UNKNOWN, c->nr_recs);
	mark[5] = HANGS;
	for (uint64_t i = 0; i < c->nr_recs; i++) {
		uint64_t at = i;

		while (at < c->nr_recs && c->recs[at].state == RS_BASE && c->recs[at].names && mark[at] == UNKNOWN) {
			mark[at] = ON_THE_WAY;
			at = c->recs[at].parent;
		}
		bool lost = at < c->nr_recs && mark[at] == ON_THE_WAY;
		if (lost)
			finding(c, i, "unreachable", "it is in no directory that the root leads to");
		for (at = i; at < c->nr_recs && mark[at] == ON_THE_WAY; at = c->recs[at].parent)
			mark[at] = HANGS;
	}
	free(mark);
}

void check_views(struct check *c)
{
	check_secure(c);
	check_extend(c);
	check_paths(c);
}

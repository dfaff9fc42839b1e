/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/fuzz/volume_look.h"

#include <stdlib.h>

#include "tests/mapdb/check.h"
#include "tests/ntfs/ntfs_format.h"

#define MFT_RUNS_MAX 4096u

struct looking {
	struct volume_look *look;
	const uint8_t *image;
	struct ntfs_boot boot;
	struct ntfs_run mft[MFT_RUNS_MAX];
	size_t mft_count;
	uint64_t mft_clusters;
	uint64_t mft_bytes; /* that are records; behind them may be anything */
	bool wanted_mft;    /* this time only $MFT's own runs are taken */
};

static void object(struct looking *l, const char *wrong)
{
	if (!l->look->wrong)
		l->look->wrong = wrong;
}

/* Records may lie in several pieces, of whole sectors. */
static bool read_record(const struct looking *l, uint64_t number, uint8_t record[static NTFS_RECORD_MAX])
{
	for (uint32_t done = 0; done < l->boot.record_size; done += NTFS_STRIDE) {
		uint64_t off = number * l->boot.record_size + done, vcn = off / l->boot.cluster_size;
		const struct ntfs_run *run = l->mft;
		while (run < l->mft + l->mft_count && vcn >= run->vcn + run->len)
			run++;
		if (run == l->mft + l->mft_count)
			return false;
		uint64_t lcn = (uint64_t)run->lcn + (vcn - run->vcn);
		memcpy(record + done, l->image + lcn * l->boot.cluster_size + off % l->boot.cluster_size, NTFS_STRIDE);
	}
	return true;
}

static uint64_t stream_of(uint32_t base, const uint8_t *attr)
{
	uint64_t hash = 14695981039346656037u ^ base ^ (uint64_t)get32(attr + A_TYPE) << 32;
	const uint8_t *name = attr + get16(attr + A_NAME_OFS);
	for (unsigned int i = 0; i < 2u * attr[A_NAME_LEN]; i++) /* without a name its place means nothing */
		hash = (hash ^ name[i]) * 1099511628211u;
	return hash * 0x9e3779b97f4a7c15u | 1;
}

static void own(struct looking *l, const struct ntfs_run *run, uint64_t stream, uint32_t base, uint32_t type)
{
	for (uint64_t i = 0; i < run->len; i++) {
		struct cluster_owner *owner = &l->look->owners[(uint64_t)run->lcn + i];
		if (owner->stream)
			object(l, "a cluster has two owners");
		*owner = (struct cluster_owner){stream, run->vcn + i, base, type};
	}
}

/* False if it is torn. No record is longer than that, but compilers cannot know. */
static bool fix_record(const struct looking *l, uint8_t record[static NTFS_RECORD_MAX])
{
	return l->boot.record_size <= NTFS_RECORD_MAX && ntfs_fixup_read(record, l->boot.record_size);
}

static void take_runs(struct looking *l, uint32_t base, const uint8_t *attr, uint32_t length)
{
	const uint8_t *p = attr + get16(attr + A_PAIRS_OFS), *end = attr + length;
	uint64_t vcn = get64(attr + A_LOWEST), stream = stream_of(base, attr);
	struct ntfs_run run;
	int64_t lcn = 0;
	int r = -1;
	while (p <= end && (r = ntfs_pair_next(&p, end, &lcn, &run)) == 1) {
		run.vcn = vcn;
		vcn += run.len;
		if (run.lcn == LCN_IS_HOLE)
			continue;
		if ((uint64_t)run.lcn >= l->boot.nr_clusters || run.len > l->boot.nr_clusters - (uint64_t)run.lcn) {
			object(l, "a run lies outside the volume");
			return;
		}
		if (!l->wanted_mft)
			own(l, &run, stream, base, get32(attr + A_TYPE));
		else if (l->mft_count < MFT_RUNS_MAX)
			l->mft[l->mft_count++] = run;
	}
	if (r != 0)
		object(l, "a run list does not end");
	if (l->wanted_mft)
		l->mft_clusters = vcn;
}

static void look_at_record(struct looking *l, uint64_t number, uint8_t *record)
{
	uint32_t size = l->boot.record_size, length;
	uint32_t base = get64(record + REC_BASE) ? (uint32_t)REF_RECORD(get64(record + REC_BASE)) : (uint32_t)number;
	for (uint32_t off = get16(record + REC_ATTRS);; off += length) {
		const uint8_t *attr = record + off;
		if (off > size - 8 || off % 8) {
			object(l, "the attributes of a record do not end");
			return;
		}
		if (get32(attr) == AT_END)
			return;
		length = get32(attr + A_LENGTH);
		if (length < A_RES_HEADER || length > size - off ||
		    (attr[A_NAME_LEN] && get16(attr + A_NAME_OFS) + 2u * attr[A_NAME_LEN] > length)) {
			object(l, "an attribute leaves its record");
			return;
		}
		if (!attr[A_NONRES])
			continue;
		bool of_mft = base == 0 && get32(attr) == AT_DATA && !attr[A_NAME_LEN];
		if (of_mft && !get64(attr + A_LOWEST))
			l->mft_bytes = get64(attr + A_INIT);
		if (!l->wanted_mft || (of_mft && get64(attr + A_LOWEST) == l->mft_clusters))
			take_runs(l, base, attr, length);
	}
}

static void look_at_records(struct looking *l)
{
	_Alignas(8) uint8_t record[NTFS_RECORD_MAX];
	for (uint64_t i = 0; i < l->mft_bytes / l->boot.record_size; i++) {
		if (!read_record(l, i, record))
			return; /* it may be in a piece that is not found yet */
		if (memcmp(record, "FILE", 4) != 0 || !(get16(record + REC_FLAGS) & RF_IN_USE))
			continue;
		if (fix_record(l, record))
			look_at_record(l, i, record);
		else
			object(l, "a record in use is torn");
	}
}

/* Record 0 has the first runs of $MFT; each further piece lies where those before it already lead. */
static void find_mft(struct looking *l)
{
	uint64_t before;
	l->mft[0] = (struct ntfs_run){0, (int64_t)l->boot.mft_lcn, l->boot.record_size / l->boot.cluster_size + 1};
	if (l->boot.mft_lcn + l->mft[0].len > l->boot.nr_clusters) {
		object(l, "$MFT lies outside the volume");
		return;
	}
	_Alignas(8) uint8_t record[NTFS_RECORD_MAX];
	l->mft_count = 1;
	read_record(l, 0, record);
	l->mft_count = 0;
	if (memcmp(record, "FILE", 4) != 0 || !fix_record(l, record)) {
		object(l, "the first record is none");
		return;
	}
	l->wanted_mft = true;
	look_at_record(l, 0, record);
	do {
		before = l->mft_clusters;
		look_at_records(l);
	} while (!l->look->wrong && l->mft_clusters > before);
	l->wanted_mft = false;
	if (l->mft_bytes > l->mft_clusters * l->boot.cluster_size)
		object(l, "$MFT has more records than it has room for");
}

void volume_look(const uint8_t *image, size_t size, struct volume_look *look)
{
	struct looking *l = calloc(1, sizeof(*l));
	CHECK(l);
	*look = (struct volume_look){.wrong = ntfs_boot_parse(image, &l->boot)};
	l->look = look;
	l->image = image;
	if (!look->wrong && l->boot.nr_clusters > size / l->boot.cluster_size)
		look->wrong = "the volume is longer than the image";
	if (!look->wrong) {
		look->cluster_size = l->boot.cluster_size;
		look->clusters = l->boot.nr_clusters;
		look->owners = calloc(look->clusters, sizeof(*look->owners));
		CHECK(look->owners);
		find_mft(l);
	}
	if (!look->wrong)
		look_at_records(l);
	free(l);
}

void volume_look_free(struct volume_look *look)
{
	free(look->owners);
	look->owners = NULL;
}

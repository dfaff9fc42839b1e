// SPDX-License-Identifier: GPL-2.0-or-later
/* The volume's state, in ntfs-check: $MFTMirr, version and flags, $LogFile. */
#include "ntfs_check.h"

#include <inttypes.h>
#include <stdlib.h>

#define CHUNK (1u << 20)

/* Behind the bytes in use there may be anything. */
static uint32_t bytes_that_count(const uint8_t *rec, uint32_t size)
{
	uint32_t used = get32(rec + REC_USED);

	return !memcmp(rec, "FILE", 4) && used > REC_HEADER && used < size ? used : size;
}

/* Records 0-3 must equal (ntfs-3g: up to 15, the update sequence number included); later ones may lag behind. */
void check_mirror(struct check *c)
{
	uint32_t rs = c->boot.record_size, cs = c->boot.cluster_size;
	uint64_t nr = cs / rs > 4 ? cs / rs : 4;
	struct group *g = find_group(c, 1, AT_DATA, 0);
	struct extent *e = g ? group_extent(c, g, 0) : NULL;
	uint8_t *a = xrealloc(NULL, 2, rs), *b = a + rs;

	if (!e || !e->nr_runs || e->broken) {
		finding(c, 1, "mirror", "$MFTMirr has no clusters");
		free(a);
		return;
	}
	if ((uint64_t)((struct ntfs_run *)c->runs.p)[e->first_run].lcn != c->boot.mirr_lcn)
		finding(c, 1, "mirror", "$MFTMirr does not begin where the boot sector says");
	if (e->data < nr * rs)
		finding(c, 1, "mirror", "$MFTMirr is too small for %" PRIu64 " records", nr);
	for (uint64_t i = 0; i < nr && i < c->nr_recs; i++) {
		if (!read_group(c, g, i * rs, b, rs) || !read_runs(c, c->mft_runs.p, c->mft_runs.nr, i * rs, a, rs))
			finding(c, 1, "mirror", "copy of record %" PRIu64 " cannot be read", i);
		else if (memcmp(a, b, bytes_that_count(a, rs)) && i < 16)
			finding(c, i, "mirror", "the copy in $MFTMirr differs");
		else if (memcmp(a, b, bytes_that_count(a, rs)))
			warning(c, i, "mirror", "the copy in $MFTMirr differs");
	}
	free(a);
}

void check_volume_info(struct check *c)
{
	struct value *v = find_value(c, 3, AT_VOLUME_INFO, 0);
	const uint8_t *info = v && v->len >= 12 ? (uint8_t *)c->pool.p + v->pos : NULL;
	uint16_t flags;

	if (!info) {
		finding(c, 3, "volume", "no $VOLUME_INFORMATION");
		return;
	}
	if (info[8] != 3 || info[9] > 1)
		finding(c, 3, "volume", "NTFS version %u.%u", info[8], info[9]);
	flags = get16(info + 10);
	if (flags & 0x4017)
		finding(c, 3, "volume-flags", "volume flags 0x%04x:%s%s%s%s%s", flags, flags & 1 ? " dirty" : "",
		        flags & 2 ? " resize-log" : "", flags & 4 ? " upgrade" : "",
		        flags & 0x10 ? " usn-deletion" : "", flags & 0x4000 ? " chkdsk-under-way" : "");
}

/* A restart page, fixups undone: its restart area, or NULL. *lsn is its age. */
static const uint8_t *restart_area(uint8_t *page, uint32_t size, uint64_t *lsn)
{
	uint32_t ofs = get16(page + 24);

	if (memcmp(page, "RSTR", 4) && memcmp(page, "CHKD", 4))
		return NULL;
	if (get32(page + 16) > size || get32(page + 16) < 512 || get32(page + 16) % 512 ||
	    !ntfs_fixup_read(page, get32(page + 16)) || ofs % 8 || ofs < 30 || ofs + 48 > get32(page + 16))
		return NULL;
	*lsn = get64(page + ofs);
	return page + ofs;
}

static bool log_is_empty(struct check *c, const struct group *g, uint64_t size)
{
	uint8_t *buf = xrealloc(NULL, CHUNK, 1);
	bool empty = true;

	for (uint64_t pos = 0; empty && pos < size; pos += CHUNK) {
		size_t n = size - pos < CHUNK ? (size_t)(size - pos) : CHUNK;

		empty = read_group(c, g, pos, buf, n) && buf[0] == 0xff && !memcmp(buf, buf + 1, n - 1);
	}
	free(buf);
	return empty;
}

void check_logfile(struct check *c)
{
	struct group *g = find_group(c, 2, AT_DATA, 0);
	uint64_t size = g ? group_extent(c, g, 0)->data : 0, lsn[2] = {0, 0};
	uint8_t *page = xrealloc(NULL, 2, 65536);
	const uint8_t *area[2] = {NULL, NULL}, *best;
	uint32_t page_size;

	if (size < 8192 || !read_group(c, g, 0, page, 4096)) {
		finding(c, 2, "log", "$LogFile is too small or cannot be read");
	} else if (get32(page) == 0xffffffff) {
		if (!log_is_empty(c, g, size))
			finding(c, 2, "log", "$LogFile begins as if it were empty and is not");
	} else {
		page_size = get32(page + 16);
		if (ntfs_power_of_two(page_size) && page_size >= 512 && page_size <= 65536 && 2 * page_size <= size) {
			if (read_group(c, g, 0, page, page_size))
				area[0] = restart_area(page, page_size, &lsn[0]);
			if (read_group(c, g, page_size, page + 65536, page_size))
				area[1] = restart_area(page + 65536, page_size, &lsn[1]);
		}
		best = area[1] && (!area[0] || lsn[1] > lsn[0]) ? area[1] : area[0];
		if (!best)
			finding(c, 2, "log", "no restart page");
		else if (get16((best == area[1] ? page + 65536 : page) + 28) != 1)
			finding(c, 2, "log", "restart page version %u: not detached cleanly",
			        get16((best == area[1] ? page + 65536 : page) + 28));
		else if (get16(best + 12) != 0xffff && !(get16(best + 14) & 2))
			finding(c, 2, "log", "the log is in use (not unmounted cleanly)");
	}
	free(page);
}

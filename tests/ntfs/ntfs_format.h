// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The NTFS on-disk format, as far as the test tools need it: little-endian accessors, field offsets and the
 * decoders for fixups and run lists. Written from the format and not from libntfs-3g or defrag/, so that a
 * misreading there is not repeated here. Nothing here trusts its input: every decoder is given the end of the buffer.
 */
#ifndef NTFS_FORMAT_H
#define NTFS_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t get16(const void *p)
{
	const uint8_t *b = p;
	return (uint16_t)(b[0] | b[1] << 8);
}

static inline uint32_t get32(const void *p)
{
	const uint8_t *b = p;
	return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static inline uint64_t get64(const void *p)
{
	return get32(p) | (uint64_t)get32((const uint8_t *)p + 4) << 32;
}

static inline void put16(void *p, uint16_t v)
{
	uint8_t *b = p;
	b[0] = (uint8_t)v;
	b[1] = (uint8_t)(v >> 8);
}

static inline void put32(void *p, uint32_t v)
{
	put16(p, (uint16_t)v);
	put16((uint8_t *)p + 2, (uint16_t)(v >> 16));
}

static inline void put64(void *p, uint64_t v)
{
	put32(p, (uint32_t)v);
	put32((uint8_t *)p + 4, (uint32_t)(v >> 32));
}

/* Attribute types. */
enum {
	AT_SI = 0x10,
	AT_LIST = 0x20,
	AT_FILE_NAME = 0x30,
	AT_OBJECT_ID = 0x40,
	AT_SECURITY = 0x50,
	AT_VOLUME_NAME = 0x60,
	AT_VOLUME_INFO = 0x70,
	AT_DATA = 0x80,
	AT_INDEX_ROOT = 0x90,
	AT_INDEX_ALLOC = 0xa0,
	AT_BITMAP = 0xb0,
	AT_REPARSE = 0xc0,
	AT_LOGGED = 0x100,
};
#define AT_END 0xffffffffu

/* Attribute flags. */
enum { AF_COMPRESSED = 0x0001, AF_COMPRESSION_MASK = 0x00ff, AF_ENCRYPTED = 0x4000, AF_SPARSE = 0x8000 };

/* MFT record header. */
enum {
	REC_USA_OFS = 4,
	REC_USA_COUNT = 6,
	REC_LSN = 8,
	REC_SEQ = 16,
	REC_LINKS = 18,
	REC_ATTRS = 20,
	REC_FLAGS = 22,
	REC_USED = 24,
	REC_ALLOCATED = 28,
	REC_BASE = 32,
	REC_NEXT_INSTANCE = 40,
	REC_NUMBER = 44,
	REC_HEADER = 48,
};
enum { RF_IN_USE = 1, RF_DIRECTORY = 2, RF_EXTEND = 4, RF_VIEW_INDEX = 8 };

/* Attribute header: common part, then the resident or the non-resident form. */
enum {
	A_TYPE = 0,
	A_LENGTH = 4,
	A_NONRES = 8,
	A_NAME_LEN = 9,
	A_NAME_OFS = 10,
	A_FLAGS = 12,
	A_INSTANCE = 14,
	A_VALUE_LEN = 16,
	A_VALUE_OFS = 20,
	A_RES_HEADER = 24,
	A_LOWEST = 16,
	A_HIGHEST = 24,
	A_PAIRS_OFS = 32,
	A_UNIT = 34,
	A_ALLOC = 40,
	A_DATA = 48,
	A_INIT = 56,
	A_NONRES_HEADER = 64,
	A_COMPSIZE = 64,
	A_COMP_HEADER = 72,
};

/* $ATTRIBUTE_LIST entry. */
enum {
	L_TYPE = 0,
	L_LENGTH = 4,
	L_NAME_LEN = 6,
	L_NAME_OFS = 7,
	L_LOWEST = 8,
	L_REF = 16,
	L_INSTANCE = 24,
	L_HEADER = 26
};

/* $STANDARD_INFORMATION: id of the descriptor, since NTFS 3.0. */
enum { SI_SECURITY = 52 };

/* $FILE_NAME. */
enum { FN_PARENT = 0, FN_LENGTH = 64, FN_NAMESPACE = 65, FN_NAME = 66 };
enum { NS_POSIX = 0, NS_WIN32 = 1, NS_DOS = 2, NS_WIN32_DOS = 3 };

/* Index header (in $INDEX_ROOT at 16, in INDX blocks at 24) and index entry. */
enum { IH_ENTRIES = 0, IH_USED = 4, IH_ALLOCATED = 8, IH_FLAGS = 12, IH_SIZE = 16 };
enum { IR_TYPE = 0, IR_COLLATION = 4, IR_BLOCK = 8, IR_CLUSTERS = 12, IR_HEADER = 16 };
enum { IB_VCN = 16, IB_HEADER = 24 };
enum { IE_REF = 0, IE_LENGTH = 8, IE_KEY_LEN = 10, IE_FLAGS = 12, IE_KEY = 16 };
enum { IEF_NODE = 1, IEF_END = 2 };

#define NTFS_STRIDE     512u /* of update sequences, whatever the sector size */
#define REF_RECORD(ref) ((ref)&0xffffffffffffULL)
#define REF_SEQ(ref)    ((uint16_t)((ref) >> 48))
#define LCN_IS_HOLE     (-1)

struct ntfs_run {
	uint64_t vcn;
	int64_t lcn; /* LCN_IS_HOLE or the first cluster */
	uint64_t len;
};

/* Of an MFT record, in bytes. */
#define NTFS_RECORD_MAX 4096

struct ntfs_boot {
	uint32_t sector_size, cluster_size, record_size, index_size;
	uint64_t total_sectors, nr_clusters, mft_lcn, mirr_lcn;
};

/* Undoes the fixups of a record or an index block of @size bytes in place; false if a sector is torn. */
static inline bool ntfs_fixup_read(uint8_t *buf, uint32_t size)
{
	uint32_t ofs = get16(buf + REC_USA_OFS), count = get16(buf + REC_USA_COUNT);

	if (count != size / NTFS_STRIDE + 1 || ofs < 8 || ofs % 2 || ofs + 2 * count > NTFS_STRIDE - 2)
		return false;
	for (uint32_t i = 1; i < count; i++)
		if (get16(buf + i * NTFS_STRIDE - 2) != get16(buf + ofs))
			return false;
	for (uint32_t i = 1; i < count; i++)
		memcpy(buf + i * NTFS_STRIDE - 2, buf + ofs + 2 * i, 2);
	return true;
}

/* Applies fixups before a write, with the next update sequence number (never 0 or 0xffff). */
static inline void ntfs_fixup_write(uint8_t *buf, uint32_t size)
{
	uint32_t ofs = get16(buf + REC_USA_OFS), count = size / NTFS_STRIDE + 1;
	uint16_t usn = (uint16_t)(get16(buf + ofs) + 1);

	if (usn == 0 || usn == 0xffff)
		usn = 1;
	put16(buf + ofs, usn);
	for (uint32_t i = 1; i < count; i++) {
		memcpy(buf + ofs + 2 * i, buf + i * NTFS_STRIDE - 2, 2);
		put16(buf + i * NTFS_STRIDE - 2, usn);
	}
}

/*
 * Decodes one mapping pair at *p. Returns 1 and advances, 0 at the terminator, -1 if it is malformed.
 * *lcn is the running LCN that deltas are added to; run->vcn is left to the caller.
 */
static inline int ntfs_pair_next(const uint8_t **p, const uint8_t *end, int64_t *lcn, struct ntfs_run *run)
{
	const uint8_t *b = *p;
	unsigned nlen, nlcn;
	uint64_t len = 0, delta = 0;

	if (b >= end)
		return -1;
	if (!*b)
		return 0;
	nlen = *b & 15;
	nlcn = *b >> 4;
	b++;
	if (!nlen || nlen > 8 || nlcn > 8 || (size_t)(end - b) < nlen + nlcn)
		return -1;
	for (unsigned i = 0; i < nlen; i++)
		len |= (uint64_t)b[i] << (8 * i);
	if (b[nlen - 1] & 0x80 || !len) /* lengths are signed on disk and positive */
		return -1;
	b += nlen;
	for (unsigned i = 0; i < nlcn; i++)
		delta |= (uint64_t)b[i] << (8 * i);
	if (nlcn && nlcn < 8 && b[nlcn - 1] & 0x80)
		delta |= ~0ULL << (8 * nlcn);
	run->len = len;
	run->lcn = LCN_IS_HOLE;
	if (nlcn) {
		*lcn = (int64_t)((uint64_t)*lcn + delta);
		if (*lcn < 0)
			return -1;
		run->lcn = *lcn;
	}
	*p = b + nlcn;
	return 1;
}

static inline bool ntfs_power_of_two(uint64_t v)
{
	return v && !(v & (v - 1));
}

/* "Clusters per record" is signed: negative n means 2^-n bytes. 0 if it is no sensible size. */
static inline uint32_t ntfs_record_bytes(int8_t v, uint32_t cluster_size)
{
	uint64_t size = 0;

	if (v < 0 && v >= -16)
		size = 1ULL << -v;
	else if (v > 0)
		size = (uint64_t)v * cluster_size;
	return size >= 512 && size <= 65536 && ntfs_power_of_two(size) ? (uint32_t)size : 0;
}

/* Parses a boot sector (512 bytes are enough). NULL if it is sane, else what is wrong with it. */
static inline const char *ntfs_boot_parse(const uint8_t *b, struct ntfs_boot *boot)
{
	uint32_t spc;

	if (memcmp(b + 3, "NTFS    ", 8))
		return "no NTFS signature";
	boot->sector_size = get16(b + 11);
	if (!ntfs_power_of_two(boot->sector_size) || boot->sector_size < 256 || boot->sector_size > 4096)
		return "impossible sector size";
	spc = b[13] > 0x80 ? 1u << (256 - b[13] > 30 ? 30 : 256 - b[13]) : b[13];
	if (!ntfs_power_of_two(spc) || (uint64_t)spc * boot->sector_size > 2u << 20)
		return "impossible cluster size";
	boot->cluster_size = spc * boot->sector_size;
	if (get16(b + 14) || b[16] || get16(b + 17) || get16(b + 19) || get16(b + 22) || get32(b + 32))
		return "a field that must be zero is not";
	boot->total_sectors = get64(b + 40);
	if (!boot->total_sectors || boot->total_sectors >> 52)
		return "impossible number of sectors";
	boot->nr_clusters = boot->total_sectors / spc;
	boot->mft_lcn = get64(b + 48);
	boot->mirr_lcn = get64(b + 56);
	if (boot->mft_lcn >= boot->nr_clusters || boot->mirr_lcn >= boot->nr_clusters)
		return "$MFT or $MFTMirr outside the volume";
	boot->record_size = ntfs_record_bytes((int8_t)b[64], boot->cluster_size);
	boot->index_size = ntfs_record_bytes((int8_t)b[68], boot->cluster_size);
	if (!boot->record_size || boot->record_size > NTFS_RECORD_MAX)
		return "impossible record size";
	if (!boot->index_size)
		return "impossible index block size";
	return get16(b + 510) == 0xaa55 ? NULL : "no 55 aa at its end";
}

#endif

// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ntfs-populate: fills an NTFS volume (made by mkntfs) with files through libntfs-3g, without a mount. The same
 * options and seed give the same files. Everything it makes is below /p<seed>/, so it can be run several times.
 */
#include "image_device.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <ntfs-3g/attrib.h>
#include <ntfs-3g/bitmap.h>
#include <ntfs-3g/dir.h>
#include <ntfs-3g/inode.h>
#include <ntfs-3g/layout.h>
#include <ntfs-3g/unistr.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define SECURITY_ID const_cpu_to_le32(0x100) /* mkntfs puts two descriptors into $Secure, this is the first */
#define BLOCK       (1u << 20)

enum kind { K_FILE, K_TINY, K_STREAM, K_SPARSE, K_COMPRESSED, K_LINK, K_NAME, NR_KINDS };

struct options {
	const char *image;
	uint64_t offset, seed, count[NR_KINDS], dirs, min_size, max_size, spare, delete_every, chunk, interleave;
	bool fill, quiet;
};

struct state {
	struct options o;
	ntfs_volume *vol;
	ntfs_inode *dir;
	uint64_t top_no, made, bytes, *doomed, nr_doomed;
	uint8_t *data;
	bool full;
};

static _Noreturn __attribute__((format(printf, 1, 2))) void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("ntfs-populate: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(2);
}

static uint64_t random_next(uint64_t *s)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

static uint64_t random_in(uint64_t *s, uint64_t min, uint64_t max)
{
	return min + random_next(s) % (max - min + 1);
}

/* Different content for every file: a misplaced cluster must never look right. */
static void make_data(uint8_t *p, size_t len, uint64_t *rng, bool compressible)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = compressible && (i / 4096) % 3 ? 0x4141414141414141ULL + i / 4096 : random_next(rng);

		memcpy(p + i, &v, len - i < 8 ? len - i : 8);
	}
}

static ntfs_inode *create(struct state *s, ntfs_inode *dir, const char *name, mode_t type)
{
	ntfschar *uname = NULL;
	int len = ntfs_mbstoucs(name, &uname);
	ntfs_inode *ni;

	if (len < 0)
		die("name %s: %s", name, strerror(errno));
	ni = ntfs_create(dir, SECURITY_ID, uname, (u8)len, type);
	free(uname);
	if (!ni && errno == ENOSPC)
		s->full = true;
	else if (!ni)
		die("creating %s: %s", name, strerror(errno));
	return ni;
}

/* Writes @len bytes at @pos of an attribute; false (and s->full) when the volume is full. */
static bool write_data(struct state *s, ntfs_attr *na, uint64_t pos, uint64_t len, uint64_t *rng, bool compressible)
{
	while (len) {
		size_t n = len < BLOCK ? (size_t)len : BLOCK;
		s64 done;

		make_data(s->data, n, rng, compressible);
		done = ntfs_attr_pwrite(na, (s64)pos, (s64)n, s->data);
		if (done < 0 && errno != ENOSPC)
			die("writing: %s", strerror(errno));
		if (done > 0)
			s->bytes += (uint64_t)done;
		if (done != (s64)n) {
			s->full = true;
			return false;
		}
		pos += n;
		len -= n;
	}
	return true;
}

static void write_attribute(struct state *s, ntfs_inode *ni, ntfschar *name, uint32_t name_len, enum kind kind,
                            uint64_t len, uint64_t *rng)
{
	ntfs_attr *na = ntfs_attr_open(ni, AT_DATA, name, name_len);
	uint64_t pos = 0;

	if (!na)
		die("opening $DATA: %s", strerror(errno));
	if (kind == K_SPARSE) {
		for (int i = 0; i < 4 && !s->full; i++) {
			pos += random_in(rng, 1, 16) << 16;
			write_data(s, na, pos, len / 4 + 1, rng, false);
			pos += len / 4 + 1;
		}
	} else {
		write_data(s, na, 0, len, rng, kind == K_COMPRESSED);
	}
	if (kind == K_COMPRESSED && ntfs_attr_pclose(na) && errno != ENOSPC)
		die("closing a compressed file: %s", strerror(errno));
	ntfs_attr_close(na);
}

static void add_stream(struct state *s, ntfs_inode *ni, uint64_t no, uint64_t *rng)
{
	char name[32];
	ntfschar *uname = NULL;
	int len;

	snprintf(name, sizeof(name), "stream%" PRIu64, no);
	len = ntfs_mbstoucs(name, &uname);
	if (len < 0 || (ntfs_attr_add(ni, AT_DATA, uname, (u8)len, NULL, 0) && errno != ENOSPC))
		die("adding a stream: %s", strerror(errno));
	if (ntfs_attr_exist(ni, AT_DATA, uname, (u32)len))
		write_attribute(s, ni, uname, (u32)len, K_STREAM, random_in(rng, s->o.min_size, s->o.max_size), rng);
	free(uname);
}

static void add_link(struct state *s, ntfs_inode *ni, uint64_t no)
{
	char name[64];
	ntfschar *uname = NULL;
	int len;

	snprintf(name, sizeof(name), "link to %" PRIu64, no);
	len = ntfs_mbstoucs(name, &uname);
	if (len < 0 || (ntfs_link(ni, s->dir, uname, (u8)len) && errno != ENOSPC))
		die("link %s: %s", name, strerror(errno));
	free(uname);
}

static void make_name(enum kind kind, uint64_t no, uint64_t *rng, char *name, size_t size)
{
	static const char *const prefix[] = {"file", "tiny", "streams", "sparse", "compressed", "linked", ""};
	static const char *const pieces[] = {"ä", "Ω", "ж", "中", "文", "ß", "x", "Y", " ", "😀", "é", "ŁŁ"};
	size_t used;

	if (kind != K_NAME) {
		snprintf(name, size, "%s%07" PRIu64, prefix[kind], no);
		return;
	}
	used = (size_t)snprintf(name, size, "%" PRIu64 "ü", no);
	for (uint64_t n = random_in(rng, 1, 60); n; n--) /* 255 UTF-16 units at most */
		used += (size_t)snprintf(name + used, size - used, "%s",
		                         pieces[random_next(rng) % (sizeof(pieces) / sizeof(*pieces))]);
	snprintf(name + used, size - used, "z");
}

static void make_file(struct state *s, enum kind kind, uint64_t no)
{
	uint64_t rng = s->o.seed * 0x10001 + no * NR_KINDS + kind, len;
	char name[1024];
	ntfs_inode *ni;

	make_name(kind, no, &rng, name, sizeof(name));
	ni = create(s, s->dir, name, S_IFREG);
	if (!ni)
		return;
	len = kind == K_TINY || kind == K_NAME ? random_in(&rng, 0, 300)
	                                       : random_in(&rng, s->o.min_size, s->o.max_size);
	if (len)
		write_attribute(s, ni, AT_UNNAMED, 0, kind, len, &rng);
	if (kind == K_STREAM)
		for (uint64_t i = random_in(&rng, 1, 3); i && !s->full; i--)
			add_stream(s, ni, i, &rng);
	if (kind == K_LINK)
		add_link(s, ni, no);
	if (s->o.delete_every && no % s->o.delete_every == 0 && kind == K_FILE)
		s->doomed[s->nr_doomed++] = no;
	if (ntfs_inode_close_in_dir(ni, s->dir))
		die("closing %s: %s", name, strerror(errno));
	s->made++;
}

/* Opens or makes the directory @name in @parent. */
static ntfs_inode *make_dir(struct state *s, ntfs_inode *parent, const char *name, bool compressed)
{
	ntfschar *uname = NULL;
	int len = ntfs_mbstoucs(name, &uname);
	u64 ref = len < 0 ? (u64)-1 : ntfs_inode_lookup_by_name(parent, uname, len);
	ntfs_inode *ni;

	free(uname);
	if (ref != (u64)-1)
		return ntfs_inode_open(s->vol, MREF(ref));
	ni = create(s, parent, name, S_IFDIR);
	if (ni && compressed) {
		ni->flags |= FILE_ATTR_COMPRESSED;
		NInoSetDirty(ni);
		NInoFileNameSetDirty(ni);
	}
	return ni;
}

static void make_top(struct state *s)
{
	ntfs_inode *root = ntfs_inode_open(s->vol, FILE_root), *top;
	char name[32];

	if (!root)
		die("opening the root directory: %s", strerror(errno));
	snprintf(name, sizeof(name), "p%" PRIu64, s->o.seed);
	top = make_dir(s, root, name, false);
	if (!top)
		die("no room for a directory");
	s->top_no = top->mft_no;
	if (ntfs_inode_close_in_dir(top, root) || ntfs_inode_close(root))
		die("closing a directory: %s", strerror(errno));
}

static ntfs_inode *open_top(struct state *s)
{
	ntfs_inode *top = ntfs_inode_open(s->vol, s->top_no);

	if (!top)
		die("opening the top directory: %s", strerror(errno));
	return top;
}

static void dir_name(enum kind kind, uint64_t no, char *name, size_t size)
{
	snprintf(name, size, "%c%05" PRIu64, "ftsScln"[kind], no);
}

/* The library opens a parent to write a child's sizes there, and must not open it twice: hence ..._in_dir(). */
static void close_dir(struct state *s, ntfs_inode *top)
{
	if (s->dir && ntfs_inode_close_in_dir(s->dir, top))
		die("closing a directory: %s", strerror(errno));
	s->dir = NULL;
}

static void make_files(struct state *s, ntfs_inode *top, enum kind kind)
{
	uint64_t nr = s->o.count[kind], per = (nr + s->o.dirs - 1) / s->o.dirs;
	char name[32];

	if (kind == K_COMPRESSED)
		NVolSetCompression(s->vol);
	for (uint64_t no = 0; no < nr && !s->full; no++) {
		if (no % per == 0) {
			close_dir(s, top);
			dir_name(kind, no / per, name, sizeof(name));
			s->dir = make_dir(s, top, name, kind == K_COMPRESSED);
			if (!s->dir)
				break;
		}
		make_file(s, kind, no);
	}
	close_dir(s, top);
	NVolClearCompression(s->vol);
}

static void remove_file(struct state *s, ntfs_inode *dir, const char *name)
{
	ntfschar *uname = NULL;
	int len = ntfs_mbstoucs(name, &uname);
	u64 ref = len < 0 ? (u64)-1 : ntfs_inode_lookup_by_name(dir, uname, len);
	ntfs_inode *ni = ref == (u64)-1 ? NULL : ntfs_inode_open(s->vol, MREF(ref));

	/* ntfs_delete() closes both inodes. */
	if (!ni || ntfs_delete(s->vol, NULL, ni, dir, uname, (u8)len))
		die("deleting %s: %s", name, strerror(errno));
	free(uname);
}

/* Deletes every n-th file again: holes in the free space, and free MFT records among used ones. */
static void delete_doomed(struct state *s)
{
	uint64_t per = (s->o.count[K_FILE] + s->o.dirs - 1) / s->o.dirs;
	uint64_t rng = 0;
	char name[64];

	for (uint64_t i = 0; i < s->nr_doomed; i++) {
		ntfs_inode *top = open_top(s), *dir;

		dir_name(K_FILE, s->doomed[i] / per, name, sizeof(name));
		dir = make_dir(s, top, name, false);
		if (!dir)
			die("opening %s: %s", name, strerror(errno));
		ntfs_inode_close(top);
		make_name(K_FILE, s->doomed[i], &rng, name, sizeof(name));
		remove_file(s, dir, name);
	}
}

/* Free MFT records at low numbers, which $MFT's own extension records need to be in. */
static void make_spare(struct state *s, bool make)
{
	char name[32];

	for (uint64_t i = 0; i < s->o.spare; i++) {
		ntfs_inode *top = open_top(s), *ni;

		snprintf(name, sizeof(name), "spare%05" PRIu64, i);
		if (make) {
			ni = create(s, top, name, S_IFREG);
			if (ni)
				ntfs_inode_close_in_dir(ni, top);
			ntfs_inode_close(top);
		} else {
			remove_file(s, top, name);
		}
	}
}

static uint64_t free_clusters(struct state *s)
{
	if (ntfs_volume_get_free_space(s->vol))
		die("counting free clusters: %s", strerror(errno));
	return (uint64_t)s->vol->free_clusters;
}

#define FILLERS 32

static ntfs_inode *open_filler(struct state *s, ntfs_inode *top, unsigned no)
{
	ntfschar *uname = NULL;
	char name[32];
	int len;
	u64 ref;

	snprintf(name, sizeof(name), "filler%02u", no);
	len = ntfs_mbstoucs(name, &uname);
	ref = len < 0 ? (u64)-1 : ntfs_inode_lookup_by_name(top, uname, len);
	free(uname);
	return ref == (u64)-1 ? create(s, top, name, S_IFREG) : ntfs_inode_open(s->vol, MREF(ref));
}

/* As many large writes as fit, then single clusters; the library gives up on a write that does not fit. */
static void fill_file(struct state *s, ntfs_inode *ni, unsigned no)
{
	ntfs_attr *na = ntfs_attr_open(ni, AT_DATA, AT_UNNAMED, 0);
	uint64_t cs = s->vol->cluster_size, pos, rng;

	if (!na)
		die("opening $DATA: %s", strerror(errno));
	pos = (uint64_t)na->data_size; /* not 0 if the volume is filled once more */
	rng = s->o.seed + no + pos;
	for (uint64_t step = BLOCK > cs ? BLOCK : cs;; step = cs) {
		while (free_clusters(s) * cs >= step && write_data(s, na, pos, step, &rng, false))
			pos += step;
		s->full = false;
		if (step == cs)
			break;
	}
	ntfs_attr_close(na);
}

/*
 * The library's allocator does not find every last cluster (those at the borders of its zones). Here they are
 * added behind the end of a file, as preallocated space.
 */
static void preallocate(struct state *s, ntfs_attr *na, s64 lcn)
{
	runlist_element *rl = na->rl, *grown;
	size_t nr = 0;

	while (rl[nr].length)
		nr++;
	grown = malloc((nr + 2) * sizeof(*grown));
	if (!grown)
		die("out of memory");
	memcpy(grown, rl, nr * sizeof(*rl));
	grown[nr] = (runlist_element){.vcn = rl[nr].vcn, .lcn = lcn, .length = 1};
	grown[nr + 1] = (runlist_element){.vcn = rl[nr].vcn + 1, .lcn = LCN_ENOENT, .length = 0};
	free(rl);
	na->rl = grown;
	na->allocated_size += s->vol->cluster_size;
	if (ntfs_bitmap_set_run(s->vol->lcnbmp_na, lcn, 1) || ntfs_attr_update_mapping_pairs(na, 0))
		die("preallocating a cluster: %s", strerror(errno));
	s->vol->free_clusters--;
}

static void take_last_clusters(struct state *s, ntfs_inode *ni)
{
	ntfs_attr *na = ntfs_attr_open(ni, AT_DATA, AT_UNNAMED, 0);
	uint64_t nr = (uint64_t)s->vol->nr_clusters;
	uint8_t *bits = calloc(nr / 8 + 8, 1);

	if (!na || !bits || !NAttrNonResident(na) || ntfs_attr_map_whole_runlist(na) ||
	    ntfs_attr_pread(s->vol->lcnbmp_na, 0, (s64)(nr + 7) / 8, bits) != (s64)(nr + 7) / 8)
		die("looking for the last free clusters: %s", strerror(errno));
	for (uint64_t i = 0; i < nr; i++)
		if (!(bits[i / 8] >> (i % 8) & 1))
			preallocate(s, na, (s64)i);
	free(bits);
	ntfs_attr_close(na);
}

/*
 * Fills the volume to the last cluster. A file stops growing when its run list needs another record and there is no
 * room for that, so there are several; all exist before the first one grows, because creating needs clusters, too.
 */
static void fill_volume(struct state *s, ntfs_inode *top)
{
	enum { CREATE, FILL, LAST, NR_ROUNDS };

	for (int round = 0; round < NR_ROUNDS; round++) {
		for (unsigned i = 0; i < (round == LAST ? 1 : FILLERS) && free_clusters(s); i++) {
			ntfs_inode *ni = open_filler(s, top, i);

			if (!ni)
				die("no room for the files that fill the volume");
			if (round == FILL)
				fill_file(s, ni, i);
			if (round == LAST)
				take_last_clusters(s, ni);
			ntfs_inode_close_in_dir(ni, top);
		}
	}
	s->full = true;
}

static void populate(struct state *s)
{
	ntfs_inode *top;

	make_top(s);
	make_spare(s, true);
	for (int kind = 0; kind < NR_KINDS; kind++) {
		top = open_top(s);
		make_files(s, top, (enum kind)kind);
		ntfs_inode_close(top);
	}
	delete_doomed(s);
	make_spare(s, false);
	if (s->o.fill) {
		top = open_top(s);
		fill_volume(s, top);
		ntfs_inode_close(top);
	}
}

static uint64_t number(const char *s, const char **end)
{
	char *e;
	uint64_t v;
	unsigned shift = 0;

	errno = 0;
	v = strtoull(s, &e, 0);
	if (errno || e == s || *s == '-')
		die("'%s' is no number", s);
	if (*e == 'K' || *e == 'M' || *e == 'G')
		shift = *e == 'K' ? 10 : *e == 'M' ? 20 : 30, e++;
	if (v > UINT64_MAX >> shift >> 1)
		die("'%s' is too large", s);
	if (end)
		*end = e;
	else if (*e)
		die("'%s' is no number", s);
	return v << shift;
}

static void size_range(const char *s, struct options *o)
{
	const char *rest;

	o->min_size = o->max_size = number(s, &rest);
	if (!strncmp(rest, "..", 2))
		o->max_size = number(rest + 2, NULL);
	else if (*rest)
		die("'%s' is no size or range", s);
	if (o->max_size < o->min_size || o->max_size > 1ULL << 40)
		die("'%s' is no range", s);
}

static void usage(FILE *f)
{
	fputs("usage: ntfs-populate [options] IMAGE    (sizes take K, M, G)\n"
	      "  --offset BYTES     where the volume begins\n"
	      "  --seed N           all names, sizes and contents follow from it; files are below /pN/\n"
	      "  --files N          plain files; --file-size A..B their size (also of the kinds below)\n"
	      "  --dirs N           directories for each kind of file\n"
	      "  --tiny N           resident files        --streams N     files with named streams\n"
	      "  --sparse N         sparse files          --compressed N  compressed files\n"
	      "  --links N          files with two names  --names N       long names with all sorts of letters\n"
	      "  --delete-every N   then delete every Nth plain file\n"
	      "  --spare N          leave N low MFT records free\n"
	      "  --fill             then fill the volume to the last cluster\n"
	      "  --quiet\n",
	      f);
}

static void parse_options(int argc, char **argv, struct options *o)
{
	enum { O_OFFSET = 1000, O_SEED, O_SIZE, O_DIRS, O_DELETE, O_SPARE, O_FILL, O_QUIET };
	static const struct option options[] = {{"files", 1, NULL, K_FILE},
	                                        {"tiny", 1, NULL, K_TINY},
	                                        {"streams", 1, NULL, K_STREAM},
	                                        {"sparse", 1, NULL, K_SPARSE},
	                                        {"compressed", 1, NULL, K_COMPRESSED},
	                                        {"links", 1, NULL, K_LINK},
	                                        {"names", 1, NULL, K_NAME},
	                                        {"offset", 1, NULL, O_OFFSET},
	                                        {"seed", 1, NULL, O_SEED},
	                                        {"file-size", 1, NULL, O_SIZE},
	                                        {"dirs", 1, NULL, O_DIRS},
	                                        {"delete-every", 1, NULL, O_DELETE},
	                                        {"spare", 1, NULL, O_SPARE},
	                                        {"fill", 0, NULL, O_FILL},
	                                        {"quiet", 0, NULL, O_QUIET},
	                                        {"help", 0, NULL, 'h'},
	                                        {0}};
	int opt;

	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (opt) {
		case O_OFFSET:
			o->offset = number(optarg, NULL);
			break;
		case O_SEED:
			o->seed = number(optarg, NULL);
			break;
		case O_SIZE:
			size_range(optarg, o);
			break;
		case O_DIRS:
			o->dirs = number(optarg, NULL);
			break;
		case O_DELETE:
			o->delete_every = number(optarg, NULL);
			break;
		case O_SPARE:
			o->spare = number(optarg, NULL);
			break;
		case O_FILL:
			o->fill = true;
			break;
		case O_QUIET:
			o->quiet = true;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		case '?':
			usage(stderr);
			exit(2);
		default:
			o->count[opt] = number(optarg, NULL);
		}
	}
	if (optind != argc - 1 || !o->dirs) {
		usage(stderr);
		exit(2);
	}
	o->image = argv[optind];
}

int main(int argc, char **argv)
{
	struct state s = {.o = {.seed = 1, .dirs = 1, .min_size = 4096, .max_size = 65536}};

	parse_options(argc, argv, &s.o);
	ntfs_set_char_encoding("utf8");
	s.vol = image_mount(s.o.image, s.o.offset, NTFS_MNT_NONE);
	if (!s.vol)
		die("%s: %s", s.o.image, strerror(errno));
	s.data = malloc(BLOCK);
	s.doomed = calloc(s.o.delete_every ? s.o.count[K_FILE] / s.o.delete_every + 1 : 1, sizeof(*s.doomed));
	if (!s.data || !s.doomed)
		die("out of memory");
	if (ntfs_volume_get_free_space(s.vol)) /* the allocator keeps count from here on */
		die("counting free clusters: %s", strerror(errno));
	populate(&s);
	ntfs_volume_get_free_space(s.vol);
	if (!s.o.quiet)
		printf("%s: %" PRIu64 " files, %" PRIu64 " bytes, %" PRIu64 " clusters free%s\n", s.o.image, s.made,
		       s.bytes, (uint64_t)s.vol->free_clusters, s.full ? ", full" : "");
	if (ntfs_umount(s.vol, FALSE))
		die("unmounting: %s", strerror(errno));
	free(s.data);
	free(s.doomed);
	return s.full && !s.o.fill ? 3 : 0;
}

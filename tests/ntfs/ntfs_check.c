// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ntfs-check: a strict consistency checker for NTFS volumes in raw images, written from the on-disk format so that it
 * can judge what libntfs-3g and zcfs-defrag write. Reads only.
 *
 *   ntfs-check [--offset BYTES] [--json] [--fragments | --extents] [--max-findings N] IMAGE
 *
 * One line a finding: "record N: kind: text" or "volume: kind: text"; warnings say "warning:" before the kind and do
 * not count. Exit status: 0 consistent, 1 not, 2 usage or I/O error.
 */
#include "ntfs_check.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK (4u << 20)

void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("ntfs-check: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(2);
}

void *xrealloc(void *p, size_t nr, size_t item)
{
	void *q = reallocarray(p, nr ? nr : 1, item);

	if (!q)
		die("out of memory");
	return q;
}

void *vec_add(struct vec *v, size_t nr)
{
	void *p;

	if (v->nr + nr > v->cap || !v->p) {
		v->cap = v->cap * 2 > v->nr + nr ? v->cap * 2 : v->nr + nr + 64;
		v->p = xrealloc(v->p, v->cap, v->item);
	}
	p = (char *)v->p + v->nr * v->item;
	v->nr += nr;
	return p;
}

static void print_json_string(FILE *f, const char *s)
{
	fputc('"', f);
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			fputc('\\', f);
		if ((unsigned char)*s < 0x20)
			fprintf(f, "\\u%04x", *s);
		else
			fputc(*s, f);
	}
	fputc('"', f);
}

__attribute__((format(printf, 5, 0))) static void report(struct check *c, uint64_t rec, bool is_warning,
                                                         const char *kind, const char *fmt, va_list ap)
{
	FILE *f = c->quiet_stdout ? stderr : stdout;
	char text[1024];

	is_warning ? c->warnings++ : c->errors++;
	if (c->printed >= c->max_findings)
		return;
	vsnprintf(text, sizeof(text), fmt, ap);
	if (c->json) {
		fputs(c->printed ? ",\n  {" : "\n  {", f);
		if (rec != NO_RECORD)
			fprintf(f, "\"record\": %" PRIu64 ", ", rec);
		fprintf(f, "\"severity\": \"%s\", \"kind\": \"%s\", \"text\": ", is_warning ? "warning" : "error",
		        kind);
		print_json_string(f, text);
		fputc('}', f);
	} else {
		if (rec == NO_RECORD)
			fputs("volume: ", f);
		else
			fprintf(f, "record %" PRIu64 ": ", rec);
		fprintf(f, "%s%s: %s\n", is_warning ? "warning: " : "", kind, text);
	}
	if (++c->printed == c->max_findings && !c->json)
		fputs("volume: more findings are not printed\n", f);
}

void finding(struct check *c, uint64_t rec, const char *kind, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report(c, rec, false, kind, fmt, ap);
	va_end(ap);
}

void warning(struct check *c, uint64_t rec, const char *kind, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report(c, rec, true, kind, fmt, ap);
	va_end(ap);
}

/* Reads at @pos of the volume. An unreadable image is no inconsistency: that ends the program. */
bool read_volume(struct check *c, uint64_t pos, void *buf, size_t len)
{
	uint64_t volume = c->image_size - c->offset;

	if (pos > volume || len > volume - pos)
		return false;
	while (len) {
		ssize_t n = pread(c->fd, buf, len, (off_t)(c->offset + pos));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			die("read error at offset %" PRIu64 ": %s", c->offset + pos, strerror(errno));
		if (!n)
			die("the image ends at offset %" PRIu64 " and should not", c->offset + pos);
		buf = (char *)buf + n;
		pos += (uint64_t)n;
		len -= (size_t)n;
	}
	return true;
}

/* Reads bytes of an attribute through runs which are sorted by VCN; holes read as zeros. */
bool read_runs(struct check *c, const struct ntfs_run *runs, size_t nr, uint64_t pos, void *buf, size_t len)
{
	uint64_t cs = c->boot.cluster_size;
	size_t lo = 0, hi = nr;

	while (lo < hi) { /* first run that ends after pos */
		size_t mid = lo + (hi - lo) / 2;

		if (runs[mid].vcn + runs[mid].len > pos / cs)
			hi = mid;
		else
			lo = mid + 1;
	}
	for (; len && lo < nr; lo++) {
		const struct ntfs_run *r = &runs[lo];
		uint64_t skip = pos - r->vcn * cs, n = r->len * cs - skip;

		if (pos < r->vcn * cs)
			return false;
		if (n > len)
			n = len;
		if (r->lcn == LCN_IS_HOLE)
			memset(buf, 0, n);
		else if (!read_volume(c, (uint64_t)r->lcn * cs + skip, buf, n))
			return false;
		buf = (char *)buf + n;
		pos += n;
		len -= n;
	}
	return !len;
}

char *name_text(struct check *c, uint32_t name, char *out, size_t size)
{
	const struct name *n = (struct name *)c->names.p + name;
	const uint8_t *u = (uint8_t *)c->pool.p + n->pos;
	size_t used = 0;

	for (uint32_t i = 0; i < n->len && used + 8 < size; i++) {
		uint32_t ch = get16(u + 2 * i);

		if (ch > ' ' && ch < 0x7f && ch != '%' && !(ch == '-' && n->len == 1))
			out[used++] = (char)ch;
		else
			used += (size_t)snprintf(out + used, size - used, "%%%02x", ch);
	}
	if (!n->len)
		out[used++] = '-';
	out[used] = 0;
	return out;
}

const char *attr_label(struct check *c, uint32_t type, uint32_t name)
{
	static char text[300];
	char buf[256];

	if (name)
		snprintf(text, sizeof(text), "attribute 0x%x:%s", type, name_text(c, name, buf, sizeof(buf)));
	else
		snprintf(text, sizeof(text), "attribute 0x%x", type);
	return text;
}

static bool check_boot(struct check *c)
{
	uint8_t *first, *last;
	const char *wrong;
	uint64_t volume = c->image_size - c->offset, need;
	uint32_t size;

	if (volume < 512)
		die("the image is too small for a volume at this offset");
	first = xrealloc(NULL, 2, 4096);
	last = first + 4096;
	read_volume(c, 0, first, 512);
	wrong = ntfs_boot_parse(first, &c->boot);
	if (wrong) {
		finding(c, NO_RECORD, "boot", "%s", wrong);
		free(first);
		return false;
	}
	size = c->boot.sector_size;
	need = (c->boot.total_sectors + 1) * size;
	if (need > volume)
		finding(c, NO_RECORD, "volume-size",
		        "%" PRIu64 " bytes with the backup boot sector, but only %" PRIu64 " are there", need, volume);
	else if (!read_volume(c, 0, first, size) || !read_volume(c, need - size, last, size) ||
	         memcmp(first, last, size))
		finding(c, NO_RECORD, "boot-backup", "the last sector is no copy of the boot sector");
	if (c->boot.nr_clusters * c->boot.cluster_size > volume) /* reads below stay within the image anyhow */
		c->boot.nr_clusters = volume / c->boot.cluster_size;
	free(first);
	return c->boot.nr_clusters > 0 && c->boot.mft_lcn < c->boot.nr_clusters;
}

/* Adds the runs of one $DATA extent of $MFT to what is known of it. */
static bool mft_add_runs(struct check *c, const uint8_t *a, uint32_t len, uint64_t *next)
{
	const uint8_t *p = a + get16(a + A_PAIRS_OFS), *end = a + len;
	struct ntfs_run run;
	int64_t lcn = 0;
	int rc;

	if (len < A_NONRES_HEADER || !a[A_NONRES] || get16(a + A_PAIRS_OFS) >= len || get64(a + A_LOWEST) != *next)
		return false;
	while ((rc = ntfs_pair_next(&p, end, &lcn, &run)) > 0) {
		if (run.lcn == LCN_IS_HOLE || run.len > c->boot.nr_clusters ||
		    (uint64_t)run.lcn > c->boot.nr_clusters - run.len)
			return false;
		run.vcn = *next;
		*next += run.len;
		if (*next > c->boot.nr_clusters)
			return false;
		*(struct ntfs_run *)vec_add(&c->mft_runs, 1) = run;
	}
	return !rc;
}

/* The attribute of @type without a name in a record, or its extent at @vcn; or NULL. */
static const uint8_t *find_unnamed(const uint8_t *rec, uint32_t size, uint32_t type, uint64_t vcn, uint32_t *len)
{
	for (uint32_t ofs = get16(rec + REC_ATTRS); ofs <= size - 16; ofs += *len) {
		const uint8_t *a = rec + ofs;

		*len = get32(a + A_LENGTH);
		if (get32(a) == AT_END || *len < A_RES_HEADER || *len % 8 || *len > size - ofs)
			return NULL;
		if (get32(a) == type && !a[A_NAME_LEN] && (a[A_NONRES] ? get64(a + A_LOWEST) : 0) == vcn)
			return a;
	}
	return NULL;
}

/* The value of $MFT's own attribute list. It must be readable without $MFT, so its runs are in record 0. */
static uint8_t *mft_list(struct check *c, const uint8_t *a, uint32_t len, uint32_t *size)
{
	struct vec runs = {.item = sizeof(struct ntfs_run)}, saved = c->mft_runs;
	uint64_t clusters = 0;
	uint8_t *list = NULL;

	if (!a[A_NONRES]) {
		*size = get32(a + A_VALUE_LEN);
		if (get16(a + A_VALUE_OFS) > len || *size > len - get16(a + A_VALUE_OFS))
			return NULL;
		return memcpy(xrealloc(NULL, *size, 1), a + get16(a + A_VALUE_OFS), *size);
	}
	c->mft_runs = runs;
	if (len >= A_NONRES_HEADER && mft_add_runs(c, a, len, &clusters) && get64(a + A_DATA) <= 256u << 10) {
		*size = (uint32_t)get64(a + A_DATA);
		list = xrealloc(NULL, *size, 1);
		if (!read_runs(c, c->mft_runs.p, c->mft_runs.nr, 0, list, *size)) {
			free(list);
			list = NULL;
		}
	}
	free(c->mft_runs.p);
	c->mft_runs = saved;
	return list;
}

/* Follows $MFT's list to its further extents, each readable through those before it. */
static bool mft_extensions(struct check *c, const uint8_t *list, uint32_t size, uint64_t *next)
{
	uint32_t rs = c->boot.record_size, len, step;
	uint8_t *rec = xrealloc(NULL, rs, 1);
	bool ok = true;

	for (uint32_t ofs = 0; ok && ofs + L_HEADER <= size; ofs += step) {
		const uint8_t *e = list + ofs, *a;
		uint64_t no = REF_RECORD(get64(e + L_REF));

		step = get16(e + L_LENGTH);
		if (step < L_HEADER || step > size - ofs)
			ok = false;
		else if (get32(e) == AT_DATA && !e[L_NAME_LEN] && get64(e + L_LOWEST)) {
			ok = read_runs(c, c->mft_runs.p, c->mft_runs.nr, no * rs, rec, rs) && !memcmp(rec, "FILE", 4) &&
			     ntfs_fixup_read(rec, rs) &&
			     (a = find_unnamed(rec, rs, AT_DATA, get64(e + L_LOWEST), &len)) &&
			     mft_add_runs(c, a, len, next);
			if (!ok)
				finding(c, no, "mft",
				        "$MFT's extent at VCN 0x%" PRIx64 " cannot be read through "
				        "those before it",
				        get64(e + L_LOWEST));
		}
	}
	free(rec);
	return ok;
}

/* Finds all of $MFT, starting with nothing but the boot sector. */
static bool open_mft(struct check *c)
{
	uint32_t rs = c->boot.record_size, len, list_size = 0;
	uint8_t *rec = xrealloc(NULL, rs, 1), *list = NULL;
	const uint8_t *a;
	uint64_t next = 0, init = 0;
	bool ok = read_volume(c, c->boot.mft_lcn * c->boot.cluster_size, rec, rs) && !memcmp(rec, "FILE", 4) &&
	          ntfs_fixup_read(rec, rs) && (a = find_unnamed(rec, rs, AT_DATA, 0, &len)) &&
	          mft_add_runs(c, a, len, &next);

	if (ok) {
		init = get64(a + A_INIT);
		if ((uint64_t)((struct ntfs_run *)c->mft_runs.p)->lcn != c->boot.mft_lcn)
			finding(c, 0, "mft", "$MFT does not begin where the boot sector says");
		if (next * c->boot.cluster_size < 16 * rs)
			finding(c, 0, "mft", "record 0 does not map the first 16 records");
		a = find_unnamed(rec, rs, AT_LIST, 0, &len);
		if (a && (list = mft_list(c, a, len, &list_size)))
			ok = mft_extensions(c, list, list_size, &next);
		else if (a)
			ok = false;
		if (!a && init > next * c->boot.cluster_size)
			ok = false;
	}
	if (init > next * c->boot.cluster_size)
		init = next * c->boot.cluster_size;
	c->nr_recs = ok ? init / rs : 0;
	if (!ok || c->nr_recs < 16)
		finding(c, 0, "mft", "$MFT cannot be read");
	free(list);
	free(rec);
	return ok && c->nr_recs >= 16;
}

static void stream_mft(struct check *c)
{
	uint32_t rs = c->boot.record_size, per = CHUNK / rs;
	uint8_t *buf = xrealloc(NULL, CHUNK, 1);

	for (uint64_t no = 0; no < c->nr_recs; no += per) {
		uint32_t nr = c->nr_recs - no < per ? (uint32_t)(c->nr_recs - no) : per;

		if (!read_runs(c, c->mft_runs.p, c->mft_runs.nr, no * rs, buf, (size_t)nr * rs)) {
			finding(c, 0, "mft", "records from %" PRIu64 " on cannot be read", no);
			c->nr_recs = no;
			break;
		}
		for (uint32_t i = 0; i < nr; i++)
			check_record(c, no + i, buf + (size_t)i * rs);
	}
	free(buf);
}

/* Loads the collation table; without one names cannot be sorted, so a plain ASCII one stands in. */
static void load_upcase(struct check *c)
{
	uint64_t len = 0;
	uint8_t *table = load_attribute(c, 10, AT_DATA, 0, 131072, &len);

	c->upcase = xrealloc(NULL, 65536, sizeof(*c->upcase));
	if (len != 131072)
		finding(c, 10, "upcase", "$UpCase has not 65536 entries");
	for (uint32_t i = 0; i < 65536; i++)
		c->upcase[i] = (uint16_t)(len == 131072 ? get16(table + 2 * i) : i >= 'a' && i <= 'z' ? i - 32 : i);
	free(table);
}

static void check_volume(struct check *c)
{
	if (!check_boot(c) || !open_mft(c))
		return;
	c->recs = xrealloc(NULL, c->nr_recs, sizeof(*c->recs));
	memset(c->recs, 0, c->nr_recs * sizeof(*c->recs));
	intern_name(c, (const uint8_t *)"", 0); /* name 0 is no name */
	stream_mft(c);
	build_groups(c);
	load_upcase(c);
	check_attribute_lists(c);
	check_groups(c);
	check_mft_bitmap(c);
	check_mirror(c);
	check_volume_info(c);
	check_logfile(c);
	check_ownership(c);
	check_indexes(c);
	check_names_indexed(c);
	check_views(c);
}

static void usage(FILE *f)
{
	fputs("usage: ntfs-check [--offset BYTES] [--json] [--fragments | --extents] [--max-findings N] IMAGE\n"
	      "  --fragments  print RECORD TYPE NAME FRAGMENTS CLUSTERS of each non-resident attribute, then totals\n"
	      "  --extents    print RECORD TYPE NAME VCN LCN LENGTH of each run (LCN -1: hole; adjacent runs merged)\n"
	      "With either, findings go to stderr. Exit status: 0 consistent, 1 not, 2 usage or I/O error.\n",
	      f);
}

static uint64_t number(const char *s)
{
	char *end;
	uint64_t v;

	errno = 0;
	v = strtoull(s, &end, 0);
	if (errno || end == s || *end || *s == '-')
		die("'%s' is no number", s);
	return v;
}

static void free_all(struct check *c)
{
	struct vec *vecs[] = {&c->extents, &c->runs, &c->values,   &c->listed,
	                      &c->names,   &c->pool, &c->mft_runs, &c->views};

	for (size_t i = 0; i < sizeof(vecs) / sizeof(*vecs); i++)
		free(vecs[i]->p);
	free(c->recs);
	free(c->name_table);
	free(c->groups);
	free(c->order);
	free(c->fns);
	free(c->upcase);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"offset", 1, NULL, 'o'},
	                                        {"json", 0, NULL, 'j'},
	                                        {"fragments", 0, NULL, 'f'},
	                                        {"extents", 0, NULL, 'e'},
	                                        {"max-findings", 1, NULL, 'm'},
	                                        {"help", 0, NULL, 'h'},
	                                        {0}};
	struct check c = {.max_findings = 1000,
	                  .extents.item = sizeof(struct extent),
	                  .runs.item = sizeof(struct ntfs_run),
	                  .values.item = sizeof(struct value),
	                  .listed.item = sizeof(struct listed),
	                  .names.item = sizeof(struct name),
	                  .pool.item = 1,
	                  .views.item = sizeof(struct view),
	                  .mft_runs.item = sizeof(struct ntfs_run)};
	static char out[1 << 16];
	int opt, dump = 0;
	off_t size;

	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (opt) {
		case 'o':
			c.offset = number(optarg);
			break;
		case 'j':
			c.json = true;
			break;
		case 'f':
		case 'e':
			dump = opt;
			c.quiet_stdout = true;
			break;
		case 'm':
			c.max_findings = number(optarg);
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return 2;
		}
	}
	if (optind != argc - 1 || (dump && c.json)) {
		usage(stderr);
		return 2;
	}
	setvbuf(stdout, out, _IOFBF, sizeof(out));
	c.fd = open(argv[optind], O_RDONLY | O_CLOEXEC);
	if (c.fd < 0 || (size = lseek(c.fd, 0, SEEK_END)) < 0)
		die("%s: %s", argv[optind], strerror(errno));
	c.image_size = (uint64_t)size;
	if (c.offset > c.image_size)
		die("the offset is beyond the end of the image");
	if (c.json)
		fputs("{\"findings\": [", stdout);
	check_volume(&c);
	if (c.json)
		printf("%s],\n \"errors\": %zu, \"warnings\": %zu, \"records\": %" PRIu64 ", \"attributes\": %zu, "
		       "\"runs\": %zu}\n",
		       c.printed ? "\n " : "", c.errors, c.warnings, c.nr_recs, c.nr_groups, c.runs.nr);
	if (dump && c.groups)
		dump == 'f' ? print_fragments(&c) : print_extents(&c);
	free_all(&c);
	close(c.fd);
	if (fflush(stdout) || ferror(stdout))
		die("writing the output failed");
	return c.errors ? 1 : 0;
}

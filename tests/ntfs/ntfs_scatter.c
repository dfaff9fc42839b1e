// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ntfs-scatter: fragments an existing consistent NTFS volume, quickly and by rule. It cuts the chosen attributes into
 * pieces, shuffles these together with pieces of the free space over all clusters that the chosen attributes and the
 * free space have, moves the clusters, and rewrites run lists (with attribute lists and extension records where
 * needed), $Bitmap, $MFT's bitmap and $MFTMirr. Needs no free space. Names, sizes and contents of files stay as they
 * are.
 */
#include "ntfs_scatter.h"

#include "image_grow.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- Room for extension records ---- */

static uint64_t missing_records(struct volume *v)
{
	const struct target *t = v->targets.p;
	uint64_t need = 0, free_recs = 0;

	for (size_t i = 0; i < v->targets.nr; i++)
		need += t[i].base ? records_needed(v, &t[i], t[i].nr_pieces + t[i].nr_runs) : 0;
	for (uint64_t i = 24; i < v->nr_recs; i++)
		free_recs += !bit(v->mft_bitmap, i);
	return need > free_recs ? need : 0;
}

static void rewrite_files(struct volume *v)
{
	struct target *t = v->targets.p;

	for (size_t i = 0, k; i < v->targets.nr; i = k) {
		for (k = i; k < v->targets.nr && t[k].base == t[i].base; k++)
			make_runs(v, &t[k]);
		rewrite_file(v, &t[i], k - i);
	}
}

static void scatter(const struct options *o)
{
	uint64_t runs = 0, missing;
	struct volume v;

	for (int round = 0;; round++) {
		load_volume(&v, o);
		find_targets(&v, o);
		cut_targets(&v, o);
		missing = missing_records(&v);
		if (!missing || round)
			break;
		unload_volume(&v);
		if (image_spare_records(o->image, o->offset, missing))
			die("making room in $MFT: %s", strerror(errno));
	}
	place_pieces(&v, &(struct options){.free_pieces = o->free_pieces == UINT64_MAX ? v.pieces.nr / 8 + 1
	                                                                               : o->free_pieces});
	move_clusters(&v);
	rewrite_files(&v);
	write_metadata(&v);
	if (o->poison)
		poison_free(&v);
	for (size_t i = 0; i < v.targets.nr; i++)
		for (size_t k = 0; k < ((struct target *)v.targets.p)[i].nr_new; k++)
			runs += ((struct target *)v.targets.p)[i].new_runs[k].lcn != LCN_IS_HOLE;
	if (!o->quiet)
		printf("%s: %zu attributes in %" PRIu64 " fragments, %" PRIu64 " attribute lists written, %" PRIu64
		       " extension records added\n",
		       o->image, v.targets.nr, runs, v.list_records, v.new_records);
	unload_volume(&v);
}

static uint64_t number(const char *s)
{
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(s, &end, 0);
	if (errno || end == s || *end || *s == '-')
		die("'%s' is no number", s);
	return n;
}

static unsigned parse_what(char *list)
{
	static const struct {
		const char *name;
		unsigned bits;
	} words[] = {{"data", W_DATA},     {"streams", W_STREAMS}, {"dirs", W_DIRS},
	             {"mft", W_MFT},       {"mftbmp", W_MFTBMP},   {"bitmap", W_BITMAP},
	             {"secure", W_SECURE}, {"lists", W_LISTS},     {"other", W_OTHER},
	             {"all", 511}};
	unsigned what = 0;

	for (char *w = strtok(list, ","); w; w = strtok(NULL, ",")) {
		size_t i;

		for (i = 0; i < sizeof(words) / sizeof(*words) && strcmp(w, words[i].name); i++)
			;
		if (i == sizeof(words) / sizeof(*words))
			die("cannot scatter '%s'", w);
		what |= words[i].bits;
	}
	return what;
}

static void usage(FILE *f)
{
	fputs("usage: ntfs-scatter [options] IMAGE\n"
	      "  --offset BYTES     where the volume begins\n"
	      "  --fragments N      cut everything chosen into N pieces together; or, without it,\n"
	      "  --min-run N, --max-run N   into pieces of so many clusters (default 1 to 16)\n"
	      "  --seed N\n"
	      "  --what LIST        data,streams,dirs (these by default),mft,mftbmp,bitmap,secure,lists,other or all\n"
	      "  --only RECORD      nothing but this record's attributes\n"
	      "  --free-pieces N    cut the free space into N pieces (default an eighth as many as the others; 0: "
	      "one)\n"
	      "  --poison           fill free clusters with 0xdb\n"
	      "  --quiet\n",
	      f);
}

static void parse_options(int argc, char **argv, struct options *o)
{
	static const struct option options[] = {
	        {"offset", 1, NULL, 'o'},  {"fragments", 1, NULL, 'n'},   {"min-run", 1, NULL, 'm'},
	        {"max-run", 1, NULL, 'x'}, {"seed", 1, NULL, 's'},        {"what", 1, NULL, 'w'},
	        {"only", 1, NULL, 'r'},    {"free-pieces", 1, NULL, 'f'}, {"poison", 0, NULL, 'p'},
	        {"quiet", 0, NULL, 'q'},   {"help", 0, NULL, 'h'},        {0}};
	int opt;

	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (opt) {
		case 'o':
			o->offset = number(optarg);
			break;
		case 'n':
			o->fragments = number(optarg);
			break;
		case 'm':
			o->min_run = number(optarg);
			break;
		case 'x':
			o->max_run = number(optarg);
			break;
		case 's':
			o->seed = number(optarg);
			break;
		case 'w':
			o->what = parse_what(optarg);
			break;
		case 'r':
			o->only = number(optarg);
			break;
		case 'f':
			o->free_pieces = number(optarg);
			break;
		case 'p':
			o->poison = true;
			break;
		case 'q':
			o->quiet = true;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			exit(2);
		}
	}
	if (!o->max_run)
		o->max_run = o->fragments ? UINT64_MAX / 2 : o->min_run > 16 ? o->min_run : 16;
	if (optind != argc - 1 || !o->min_run || o->max_run < o->min_run) {
		usage(stderr);
		exit(2);
	}
	o->image = argv[optind];
}

int main(int argc, char **argv)
{
	struct options o = {.seed = 1,
	                    .min_run = 1,
	                    .free_pieces = UINT64_MAX,
	                    .only = NO_ONLY,
	                    .what = W_DATA | W_STREAMS | W_DIRS};

	parse_options(argc, argv, &o);
	scatter(&o);
	return 0;
}

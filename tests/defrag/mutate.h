/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * mutate: what the files of mutate_test share: the volumes to start from, their records, the tools that make and judge
 * them, and the image in memory that is damaged. Single-threaded; errors end the test.
 */
#ifndef ZCFS_TESTS_MUTATE_H
#define ZCFS_TESTS_MUTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "defrag/guest_pass.h"
#include "defrag/record.h"
#include "defrag/run_list.h"

#define IMAGE_SIZE_MAX (7u << 20)
#define BASES          5u

struct base {
	const char *cluster_size, *large, *record_option;
	const char *files, *spare, *max_run; /* of the large ones; see ntfs-populate and ntfs-scatter */
	size_t size;
	uint8_t *bytes;
	uint32_t cluster, record_size, records;
	uint64_t mirror_off;
	struct run_list mft, bitmap, mft_bitmap;
	uint32_t *listed; /* base records with an attribute list, and extension records */
	size_t listed_count;
};

extern struct base bases[BASES];
extern uint8_t image_bytes[IMAGE_SIZE_MAX]; /* the damaged image */
extern const struct base *base;             /* of which it is a copy */
extern int work_fd;                         /* a directory for files in passing */
extern const char *check_tool, *hash_tool, *populate_tool, *scatter_tool;

/* mutate_base.c */
const char *log_path(void);                                     /* where output goes that nobody asks for */
int run_tool(const char *output, const char *const *arguments); /* the exit status; -1 if it was killed */
#define RUN_TOOL(...) run_tool(log_path(), (const char *const[]){__VA_ARGS__, NULL})
void make_base(struct base *b);
/* Records may lie in several pieces; they are read and written as they are on disk. */
void load_record(const struct base *b, const uint8_t *bytes, uint32_t number, uint8_t *record);
void store_record(const struct base *b, uint8_t *bytes, uint32_t number, const uint8_t *record, bool mirrored);

/* mutate_damage.c */
void damage(void);      /* makes the image a copy of the base with random damage */
void damage_more(void); /* damages the image once more; it may have been a copy of the base */

/* mutate_attack.c: damage with an intention */
struct attack {
	const char *name;
	void (*make)(void);
	enum volume_result at_least;
};
extern const struct attack attacks[]; /* the first one does nothing */
extern const size_t attack_count;

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * check: what every test of this directory uses: CHECK, random numbers with a seed that can be replayed (SEED=n in the
 * environment), scratch directories. A failed CHECK says where and what, and the seed, and aborts.
 */
#ifndef ZCFS_TESTS_CHECK_H
#define ZCFS_TESTS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdnoreturn.h>

#define CHECK(condition)                                                                                               \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			check_failed(__FILE__, __LINE__, #condition);                                                  \
	} while (0)

/* An integer that must have a value; both are printed if it has not. */
#define CHECK_IS(value, expected)                                                                                      \
	do {                                                                                                           \
		long long value_ = (long long)(value), expected_ = (long long)(expected);                              \
		if (value_ != expected_)                                                                               \
			check_failed_value(__FILE__, __LINE__, #value, value_, expected_);                             \
	} while (0)

noreturn void check_failed(const char *file, int line, const char *what);
noreturn void check_failed_value(const char *file, int line, const char *what, long long value, long long expected);
/* What the test is doing, for the message of a failure. */
void check_context(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Ends the test as not possible here (exit 77). */
noreturn void check_skip(const char *reason);

void random_start(void);		/* seeds from SEED or the clock */
uint64_t random_u64(void);
uint64_t random_below(uint64_t limit); /* limit > 0 */
void random_bytes(void *buffer, size_t length);

/* A new empty directory below TMPDIR (default: in memory, else /tmp); removed at exit. The descriptor. */
int scratch_directory(void);
/* Empties a directory that is nested as deep as a store. */
void empty_directory(int dir_fd);
/* Copies regular files, their hard links and directories into an empty directory. */
void copy_directory(int from_fd, int to_fd);
void write_file(int dir_fd, const char *name, const void *bytes, size_t length);
unsigned int count_entries(const char *path); /* of a directory, "." and ".." included */
unsigned int count_descriptors(void);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * fuzz: what the fuzz targets share. A target is a function that takes any bytes for one input of zcfs, and must
 * neither crash, nor leak, nor run long, nor find a promise broken (CHECK, tests/mapdb/check.h).
 *
 * Built with clang the targets are driven by libFuzzer, whose interface this is; built with any compiler they replay
 * files (replay_main.c), so that every input that was worth keeping (tests/fuzz/corpus) is tried in every build.
 */
#ifndef ZCFS_TESTS_FUZZ_H
#define ZCFS_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* What a target defines. The last two are optional; the return values are 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

/* What libFuzzer defines: its own mutations. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

/* Bytes that are taken one number after the other. */
struct input {
	const uint8_t *at, *end;
};

static inline struct input input_of(const uint8_t *data, size_t size)
{
	return (struct input){data, data + size};
}

static inline size_t input_left(const struct input *input)
{
	return (size_t)(input->end - input->at);
}

/* A little-endian number of that many bytes; those past the end are zeros. */
static inline uint64_t take(struct input *input, unsigned int bytes)
{
	uint64_t value = 0;
	for (unsigned int i = 0; i < bytes && input->at < input->end; i++)
		value |= (uint64_t)*input->at++ << (8 * i);
	return value;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * patches: an input as the differences to something sound. It stays small, whatever it is about, and a fuzzer that
 * changes any of its bytes makes another difference, not another heap of nonsense.
 *
 * A patch is u32 offset, u8 length - 1, and the bytes; the last one may be cut short. Later ones win. What lies past
 * the end of the thing that is patched does not count.
 */
#ifndef ZCFS_TESTS_PATCHES_H
#define ZCFS_TESTS_PATCHES_H

#include <stdbool.h>

#include "tests/fuzz/fuzz.h"

struct patch {
	uint32_t off;
	uint32_t length;
	const uint8_t *bytes; /* inside the input */
};

bool patch_next(struct input *input, struct patch *patch);

void patches_apply(struct input input, uint8_t *image, size_t size);
/* Puts back, wherever the patches are, what the sound image has. */
void patches_revert(struct input input, uint8_t *image, const uint8_t *sound, size_t size);

/* Describes what differs, as far as there is room. Returns the size of the description. */
size_t patches_between(const uint8_t *sound, const uint8_t *image, size_t size, uint8_t *out, size_t room);

#endif

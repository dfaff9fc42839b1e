/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/fuzz/patches.h"

#include <string.h>

#define HEADER     5u
#define LENGTH_MAX 256u
#define STRIDE     4096u /* bytes that are compared at once */

bool patch_next(struct input *input, struct patch *patch)
{
	if (input_left(input) <= HEADER)
		return false;
	patch->off = (uint32_t)take(input, 4);
	patch->length = (uint32_t)take(input, 1) + 1;
	if (patch->length > input_left(input))
		patch->length = (uint32_t)input_left(input);
	patch->bytes = input->at;
	input->at += patch->length;
	return true;
}

static void copy_patches(struct input input, uint8_t *image, const uint8_t *sound, size_t size)
{
	struct patch patch;
	while (patch_next(&input, &patch)) {
		if (patch.off >= size)
			continue;
		size_t length = patch.length < size - patch.off ? patch.length : size - patch.off;
		memcpy(image + patch.off, sound ? sound + patch.off : patch.bytes, length);
	}
}

void patches_apply(struct input input, uint8_t *image, size_t size)
{
	copy_patches(input, image, NULL, size);
}

void patches_revert(struct input input, uint8_t *image, const uint8_t *sound, size_t size)
{
	copy_patches(input, image, sound, size);
}

/* How far a patch that begins here goes: a few equal bytes cost less than another header. */
static size_t patch_length(const uint8_t *sound, const uint8_t *image, size_t size)
{
	size_t length = 0, most = size < LENGTH_MAX ? size : LENGTH_MAX;
	for (size_t i = 0; i < most && i < length + HEADER + 1; i++)
		if (sound[i] != image[i])
			length = i + 1;
	return length;
}

size_t patches_between(const uint8_t *sound, const uint8_t *image, size_t size, uint8_t *out, size_t room)
{
	size_t used = 0;
	for (size_t off = 0; off < size;) {
		size_t here = size - off < STRIDE ? size - off : STRIDE;
		if (off % STRIDE == 0 && !memcmp(sound + off, image + off, here)) {
			off += here;
			continue;
		}
		size_t length = patch_length(sound + off, image + off, size - off);
		if (!length) {
			off++;
			continue;
		}
		if (room - used < HEADER + length)
			break;
		const uint32_t place = (uint32_t)off;
		memcpy(out + used, &place, 4);
		out[used + 4] = (uint8_t)(length - 1);
		memcpy(out + used + HEADER, image + off, length);
		used += HEADER + length;
		off += length;
	}
	return used;
}

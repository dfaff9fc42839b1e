// SPDX-License-Identifier: GPL-2.0-or-later
/* SHA-256 (FIPS 180-4), so that the test tools need no cryptographic library. */
#ifndef SHA256_H
#define SHA256_H

#include <stddef.h>
#include <stdint.h>

struct sha256 {
	uint32_t h[8];
	uint64_t length; /* bytes so far */
	uint8_t block[64];
};

void sha256_start(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *data, size_t len);
void sha256_hex(struct sha256 *s, char hex[65]); /* ends it */

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * score: how fragmented a volume is, in one number, as e4defrag -c has it for ext4: of every hundred clusters, how many
 * begin a piece that need not be. The first tenth counts most: what is worse than that is bad.
 *
 *     ratio = 100 * excess pieces / clusters of all attributes         (percent)
 *     score = 8 * ratio               where ratio <= 10
 *             80 + ratio / 5          above                            0 best, 100 worst
 *
 * e4defrag calls up to 30 no problem, up to 55 a little fragmented, and advises to defragment above.
 */
#ifndef ZCFS_SCORE_H
#define ZCFS_SCORE_H

#include <stdint.h>

/* excess: pieces beyond the first one of each attribute. Rounded down. */
static inline unsigned int fragmentation_score(uint64_t excess, uint64_t clusters)
{
	double ratio = clusters > 0 ? (double)excess * 100 / (double)clusters : 0;
	double score = ratio <= 10 ? 8 * ratio : 80 + ratio / 5;
	return score < 100 ? (unsigned int)score : 100;
}

#endif

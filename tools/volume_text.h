/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * volume_text: a volume's figures as text for a person, in 80 columns: how bad it is, the worst files, what stays and
 * why, and what follows from that in one sentence.
 */
#ifndef ZCFS_VOLUME_TEXT_H
#define ZCFS_VOLUME_TEXT_H

#include "tools/outcome.h"

/* To standard output. */
void volume_print(const struct outcome *outcome, const struct volume_report *volume,
                  const struct defrag_options *options);

#endif

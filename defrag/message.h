/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * message: what the child of a guest pass sends to its parent, through a pipe, in native byte order (they are one
 * program).
 *
 * The parent treats every message as hostile: sizes are checked here, contents where they are used.
 */
#ifndef ZCFS_MESSAGE_H
#define ZCFS_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "defrag/guest_pass.h"

enum message_type {
	MESSAGE_PROGRESS = 1, /* struct progress_message */
	MESSAGE_VOLUME,       /* struct volume_report; sent again when more is known */
	MESSAGE_DISK,         /* struct disk_message */
	MESSAGE_FILE,         /* what is moved: struct file_message, then path, stream and reason without terminators */
	MESSAGE_MOVES, /* an array of struct map_move, in image offsets, new_off ascending over all such messages of a
	                  volume */
	MESSAGE_REDO,  /* one redo blob, in host offsets */
	MESSAGE_END,   /* struct end_message: everything was sent and proven */
	MESSAGE_CLUSTER_MAP, /* struct cluster_map_message, then the counts of its cells; the volume was told of */
	MESSAGE_OWNER,       /* struct owner_message, then the path without a terminator */
	MESSAGE_FRAGMENTED,  /* what is in several pieces: as MESSAGE_FILE */
	MESSAGE_FOUND,       /* struct found_message */
	MESSAGE_FREE,        /* what nobody uses: an array of struct guest_range; those of a volume ascend */
};

#define MESSAGE_SIZE_MAX (128u * 1024)

struct message_header {
	uint32_t type;
	uint32_t size; /* of what follows, bytes */
};

struct progress_message {
	uint32_t volume;
	uint32_t phase;
	uint64_t done;
	uint64_t total;
};

struct disk_message {
	uint32_t result; /* enum volume_result */
	char cause[REPORT_TEXT_MAX];
	char remedy[REPORT_TEXT_MAX];
};

struct file_message {
	uint32_t volume;
	uint32_t record;
	uint32_t type;
	uint16_t path_length;
	uint16_t stream_length;
	uint16_t reason_length;
	uint64_t data_bytes; /* MESSAGE_FRAGMENTED */
	uint64_t bytes;
	uint64_t fragments_before;
	uint64_t fragments_after;
};

struct cluster_map_message {
	uint32_t volume;
	uint32_t after;    /* 0: before the pass */
	uint64_t clusters; /* of the volume */
};

struct owner_message {
	uint32_t query; /* index in pass_options.owners */
	uint32_t kind;
	uint32_t volume;
	uint32_t type;
	uint64_t record, vcn;
};

struct found_message {
	uint64_t file; /* index in the selection's files: a volume has it */
};

struct end_message {
	uint64_t peak_kib;
	double phase_seconds[PHASE_COUNT];
};

/* Buffered sending. */
struct message_writer {
	int fd;
	size_t used;
	uint8_t buffer[64 * 1024];
};

/* Sends a header and two parts (the second may be empty). 0 or -errno. */
int message_send(struct message_writer *writer, enum message_type type, const void *part, size_t size, const void *more,
                 size_t more_size);
int message_flush(struct message_writer *writer);

/* Buffered receiving. */
struct message_reader {
	int fd;
	size_t start, end;
	uint8_t buffer[2 * MESSAGE_SIZE_MAX];
};

/* Waits at most timeout_ms for a whole message. 1: *payload is valid until the next call; 0: none yet; -EPIPE: the
 * sender closed its end; -EBADMSG: not a message; -errno. */
int message_receive(struct message_reader *reader, int timeout_ms, struct message_header *header,
                    const uint8_t **payload);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/message.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

static int write_all(int fd, const uint8_t *bytes, size_t size)
{
	while (size) {
		ssize_t done = write(fd, bytes, size);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		bytes += done;
		size -= (size_t)done;
	}
	return 0;
}

int message_flush(struct message_writer *writer)
{
	int r = write_all(writer->fd, writer->buffer, writer->used);
	writer->used = 0;
	return r;
}

static int put(struct message_writer *writer, const void *part, size_t size)
{
	const uint8_t *bytes = part;
	while (size) {
		size_t here = sizeof(writer->buffer) - writer->used;
		if (here > size)
			here = size;
		memcpy(writer->buffer + writer->used, bytes, here);
		writer->used += here;
		bytes += here;
		size -= here;
		if (writer->used == sizeof(writer->buffer)) {
			int r = message_flush(writer);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

int message_send(struct message_writer *writer, enum message_type type, const void *part, size_t size, const void *more,
                 size_t more_size)
{
	struct message_header header = {.type = type, .size = (uint32_t)(size + more_size)};
	if (size + more_size > MESSAGE_SIZE_MAX)
		return -EMSGSIZE;
	int r = put(writer, &header, sizeof(header));
	if (r == 0)
		r = put(writer, part, size);
	return r < 0 || !more_size ? r : put(writer, more, more_size);
}

/* The next message, if all of it is in the buffer. */
static int take(struct message_reader *reader, struct message_header *header, const uint8_t **payload)
{
	size_t available = reader->end - reader->start;
	if (available < sizeof(*header))
		return 0;
	memcpy(header, reader->buffer + reader->start, sizeof(*header));
	if (header->size > MESSAGE_SIZE_MAX)
		return -EBADMSG;
	if (available - sizeof(*header) < header->size)
		return 0;
	*payload = reader->buffer + reader->start + sizeof(*header);
	reader->start += sizeof(*header) + header->size;
	return 1;
}

int message_receive(struct message_reader *reader, int timeout_ms, struct message_header *header,
                    const uint8_t **payload)
{
	int r = take(reader, header, payload);
	if (r)
		return r;
	memmove(reader->buffer, reader->buffer + reader->start, reader->end - reader->start);
	reader->end -= reader->start;
	reader->start = 0;
	struct pollfd wait = {.fd = reader->fd, .events = POLLIN};
	r = poll(&wait, 1, timeout_ms);
	if (r <= 0)
		return r == 0 || errno == EINTR ? 0 : -errno;
	ssize_t done = read(reader->fd, reader->buffer + reader->end, sizeof(reader->buffer) - reader->end);
	if (done < 0)
		return errno == EINTR ? 0 : -errno;
	if (done == 0)
		return -EPIPE;
	reader->end += (size_t)done;
	return take(reader, header, payload);
}

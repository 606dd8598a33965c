/* One client connection of the load generator: HTTP/1.1 with keep-alive over loopback, non-blocking.
 *
 * A request is what stands in `out`, then a piece of the pattern (large arguments are sent out of it and never held),
 * then a tail. An answer's body comes whole, by its length, in chunks, or up to the end of the connection.
 */
#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "buffer.h"
#include "content.h"
#include "json.h"

#define ANSWER_MAX (128u << 20)
#define HEAD_MAX 65536u
#define PIECES 16 /* of a request that go into one send */

struct client {
    int fd, queue; /* -1: not connected; the epoll that watches it */
    void *owner;   /* what the epoll's events say */
    struct buffer out, in, body;
    size_t sent, pad, pad_offset;
    const char *tail;
    bool waits; /* for room in the socket */
    /* The answer: */
    int status;
    bool head_done, sized, chunked, events, last;
    size_t head, length, scanned, chunk;
    bool chunks; /* one has begun, so that its line end is still to come */
    char session[200];
};

static void client_close(struct client *c) {
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->waits = false;
}

static bool client_connect(struct client *c, int port) {
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c->owner};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to))
        return false;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return !epoll_ctl(c->queue, EPOLL_CTL_ADD, c->fd, &event);
}

/* Forget the exchange before and begin a new one. */
static void client_begin(struct client *c) {
    c->out.size = c->in.size = c->body.size = 0;
    c->sent = c->pad = c->head = c->length = c->scanned = c->chunk = 0;
    c->tail = "";
    c->status = 0;
    c->head_done = c->sized = c->chunked = c->events = c->last = c->chunks = false;
    c->session[0] = 0;
}

static int client_pieces(struct client *c, struct iovec *pieces) {
    size_t at = c->sent, begins = c->out.size, ends = begins + c->pad, tail = strlen(c->tail);
    int count = 0;
    if (at < begins) {
        pieces[count++] = (struct iovec){c->out.data + at, begins - at};
        at = begins;
    }
    while (at < ends && count < PIECES) {
        size_t size = ends - at;
        const char *from = pattern_piece(c->pad_offset + at - begins, &size);
        pieces[count++] = (struct iovec){(char *)(uintptr_t)from, size};
        at += size;
    }
    if (at >= ends && at < ends + tail && count < PIECES)
        pieces[count++] = (struct iovec){(char *)(uintptr_t)c->tail + (at - ends), tail - (at - ends)};
    return count;
}

static void client_push(struct client *c) {
    struct iovec pieces[PIECES];
    struct msghdr message = {.msg_iov = pieces};
    while ((message.msg_iovlen = (size_t)client_pieces(c, pieces))) {
        ssize_t n = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0)
            break; /* full; a broken connection is told by the next recv */
        c->sent += (size_t)n;
    }
    bool rest = message.msg_iovlen;
    if (rest != c->waits) {
        struct epoll_event event = {.events = EPOLLIN | (rest ? EPOLLOUT : 0), .data.ptr = c->owner};
        epoll_ctl(c->queue, EPOLL_CTL_MOD, c->fd, &event);
        c->waits = rest;
    }
}

/* Whether the line is this header; then `value` is what it says, without the space before it. */
static bool header_is(struct span line, const char *name, struct span *value) {
    size_t size = strlen(name);
    if (line.size < size || strncasecmp(line.at, name, size))
        return false;
    const char *at = line.at + size, *end = line.at + line.size;
    while (at < end && *at == ' ')
        at++;
    *value = (struct span){at, (size_t)(end - at)};
    return true;
}

static void client_read_head(struct client *c, const char *end) {
    c->head = c->scanned = (size_t)(end - c->in.data) + 4;
    c->head_done = true;
    c->status = c->in.size > 12 ? atoi(c->in.data + 9) : 0;
    for (char *at = c->in.data, *stop; at < end && (stop = memchr(at, '\r', (size_t)(end + 2 - at))); at = stop + 2) {
        struct span line = {at, (size_t)(stop - at)}, value;
        if (header_is(line, "content-length:", &value))
            c->length = strtoul(value.at, NULL, 10), c->sized = true;
        else if (header_is(line, "transfer-encoding:", &value))
            c->chunked = memmem(value.at, value.size, "chunked", 7);
        else if (header_is(line, "content-type:", &value))
            c->events = memmem(value.at, value.size, "text/event-stream", 17);
        else if (header_is(line, "connection:", &value))
            c->last = memmem(value.at, value.size, "close", 5);
        else if (header_is(line, "mcp-session-id:", &value))
            snprintf(c->session, sizeof c->session, "%.*s", (int)value.size, value.at);
    }
    /* A body without a length ends with the connection, save where the status or the server's habit says none. */
    if (!c->chunked && !c->sized && (c->status == 202 || c->status == 204 || !c->last))
        c->sized = true;
}

/* Move what has come of the chunks from `in` to `body`. 1: that was all, 0: more must come, -1: not HTTP. */
static int client_read_chunks(struct client *c) {
    for (;;) {
        char *at = c->in.data + c->scanned, *digits = at + (c->chunks ? 2 : 0), *stop;
        size_t have = c->in.size - c->scanned;
        if (c->chunk) {
            size_t size = have < c->chunk ? have : c->chunk;
            buffer_add(&c->body, at, size);
            c->scanned += size;
            c->chunk -= size;
            if (!c->chunk)
                continue;
            c->in.size = c->scanned = 0;
            return 0;
        }
        if (at + have <= digits || !(stop = memchr(digits, '\n', have - (size_t)(digits - at))))
            return 0;
        char *digits_end;
        size_t size = strtoul(digits, &digits_end, 16), line = (size_t)(stop + 1 - at);
        if (digits_end == digits || c->body.size + size > ANSWER_MAX)
            return -1;
        if (!size)
            return have >= line + 2;
        c->scanned += line;
        c->chunk = size;
        c->chunks = true;
    }
}

/* 1: `data` is the whole body of an answer, 0: more must come, -1: not HTTP. */
static int client_read_answer(struct client *c, bool ended, struct span *data) {
    if (!c->head_done) {
        char *end = memmem(c->in.data, c->in.size, "\r\n\r\n", 4);
        if (!end)
            return c->in.size > HEAD_MAX || ended ? -1 : 0;
        client_read_head(c, end);
    }
    if (c->chunked) {
        int done = client_read_chunks(c);
        *data = (struct span){c->body.data ? c->body.data : "", c->body.size};
        return ended && !done ? -1 : done;
    }
    *data = (struct span){c->in.data + c->head, c->sized ? c->length : c->in.size - c->head};
    if (c->length > ANSWER_MAX || c->in.size > ANSWER_MAX)
        return -1;
    return !c->sized ? ended : c->in.size >= c->head + c->length ? 1 : ended ? -1 : 0;
}

/* Take what has come. 1: `data` is the whole body of the answer, 0: more must come, -1: the connection broke. */
static int client_receive(struct client *c, bool busy, struct span *data) {
    size_t want = c->head_done ? 65536 : 16384;
    if (c->head_done && !c->chunked && c->head + c->length > c->in.size)
        want = c->head + c->length - c->in.size;
    ssize_t n = recv(c->fd, buffer_room(&c->in, want + 1), want, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n < 0 || !busy)
        return -1;
    c->in.size += (size_t)n;
    return client_read_answer(c, !n, data);
}

#endif

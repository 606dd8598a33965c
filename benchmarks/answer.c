/* An HTTP server that answers MCP by itself, without a child: the ceiling of every subject.
 *
 * It shows that the load generator is not what limits the others. epoll, one thread, keep-alive,
 * Content-Length bodies only. It prints its URL when it listens and ends when it is told to.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "answer.h"

#define CONNECTIONS 4096 /* highest fd served */

static struct connection {
    struct buffer in, out;
    size_t sent;
    bool waits; /* for room in the socket */
} connections[CONNECTIONS];

static int queue;

static void drop(int fd) {
    close(fd);
    struct connection *c = &connections[fd];
    c->in.size = c->out.size = c->sent = 0;
    c->waits = false;
}

static void respond(struct buffer *out, const char *status, const struct buffer *body) {
    buffer_format(out, "HTTP/1.1 %s\r\nmcp-session-id: answer\r\n", status);
    buffer_format(out, "content-type: application/json\r\ncontent-length: %zu\r\n\r\n", body->size);
    buffer_add(out, body->data, body->size);
}

/* Answer the first complete request in `in`; how many bytes it took, 0 if it is not complete. */
static size_t serve(struct buffer *in, struct buffer *out) {
    static struct buffer body;
    struct request request;
    struct hole hole;
    char *end = memmem(in->data, in->size, "\r\n\r\n", 4);
    if (!end)
        return 0;
    size_t head = (size_t)(end - in->data) + 4, length = 0;
    for (char *line = in->data; line < end; line = (char *)memchr(line, '\n', head) + 1)
        if (!strncasecmp(line, "content-length:", 15))
            length = strtoul(line + 15, NULL, 10);
    if (in->size < head + length)
        return 0;
    body.size = 0;
    buffer_room(&body, 1);
    bool closing = !memcmp(in->data, "DELETE", 6);
    bool asked = !closing && request_parse(in->data + head, length, &request);
    if (asked) {
        answer_request(BOTH, &request, &body, &hole);
        hole_fill(&body, hole);
    }
    respond(out, asked ? "200 OK" : closing ? "204 No Content" : "202 Accepted", &body);
    return head + length;
}

static void flush(int fd) {
    struct connection *c = &connections[fd];
    while (c->sent < c->out.size) {
        ssize_t n = send(fd, c->out.data + c->sent, c->out.size - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return drop(fd);
        if (n < 0)
            break;
        c->sent += (size_t)n;
    }
    bool rest = c->sent < c->out.size;
    if (!rest)
        c->out.size = 0, c->sent = 0;
    if (rest != c->waits) {
        struct epoll_event event = {.events = EPOLLIN | (rest ? EPOLLOUT : 0), .data.fd = fd};
        epoll_ctl(queue, EPOLL_CTL_MOD, fd, &event);
        c->waits = rest;
    }
}

static void take(int fd) {
    struct connection *c = &connections[fd];
    ssize_t n = recv(fd, buffer_room(&c->in, 65536), 65536, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0)
        return drop(fd);
    c->in.size += (size_t)n;
    for (size_t used; c->in.size && (used = serve(&c->in, &c->out));) {
        memmove(c->in.data, c->in.data + used, c->in.size - used);
        c->in.size -= used;
    }
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    queue = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024) ||
        epoll_ctl(queue, EPOLL_CTL_ADD, listener, &event))
        return perror("listen"), 1;
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("http://127.0.0.1:%d/mcp\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(queue, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0 || fd >= CONNECTIONS) {
                    if (fd >= 0)
                        close(fd);
                    continue;
                }
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
                epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event);
                continue;
            }
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                take(fd);
            if (connections[fd].out.size)
                flush(fd);
        }
    }
}

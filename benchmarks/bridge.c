/* The least that a bridge with one child per session costs: the limit of the broker, in C.
 *
 *     bridge COMMAND [ARGUMENT...]
 *
 * epoll, one thread. `initialize` starts a child and opens a session; a request crosses with its id swapped for the
 * number of its connection, which has one request open at most, so that ids cannot clash; its answer goes back with
 * the client's id; DELETE ends the child's input. Large bodies are never copied: they are written from where they were
 * read. What one wake-up moves is bounded, so that no large message holds up the others.
 *
 * For benchmarks only. It lacks what makes a broker: checks of Host, Origin, JSON and UTF-8, streams (what is no answer
 * is dropped), progress, cancellation, time-outs, limits beyond the size of its tables, pipelining, chunked requests,
 * the modern era, a signal for a child that stays at the end of its input, and care for what a child starts itself.
 * Newlines within a body would reach the child as they are.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "buffer.h"
#include "json.h"

#define CONNECTIONS 4096
#define SESSIONS 4096
#define BODY_MAX (128u << 20)
#define HEAD_MAX 16384u
#define STEP (256u << 10)  /* bytes that one wake-up moves at most */
#define KEPT (1u << 20)    /* a client's buffer larger than this is given back */
#define TAKEN (64u << 10)  /* answers larger than this are not copied */
#define PIECES 96          /* of a write */

enum kind { LISTENER, CONNECTION, INPUT, OUTPUT }; /* what a descriptor is, from our side */

struct connection {
    enum kind kind;
    int fd; /* -1: the client has gone; what is open must still be answered by the child */
    bool busy, waits, notifies;
    struct buffer in, out, large; /* `large` follows `out`: the end of a buffer taken from a session */
    size_t sent, from;            /* where the body in `large` starts */
    size_t head, length;          /* of the request in `in` */
    struct span before, id, after; /* the body around the client's id */
    char number[12];
    struct session *session;
    struct connection *next; /* in the queue of those whose request the child has not taken, or of those to free */
};

struct session {
    enum kind input_kind, output_kind; /* the epoll knows the address of one of them */
    int input, output;                 /* -1: closed */
    pid_t pid;                         /* 0: the slot is free, -1: reaped, with output to come */
    uint64_t secret;
    bool waits, queued;
    struct connection *first, *last;
    struct session *next_queued; /* among those that have something to write after this round */
    size_t written;              /* of the first one's request */
    struct buffer lines;
    size_t searched;
};

static struct connection *connections[CONNECTIONS], *gone; /* `gone` are freed when no event can name them */
static struct session sessions[SESSIONS], *queued;
static int queue, connection_count, session_count; /* slots that have ever been used */
static volatile sig_atomic_t child_ended;
static char **command;
extern char **environ;

static void watch(int operation, int fd, uint32_t events, void *what) {
    struct epoll_event event = {.events = events, .data.ptr = what};
    epoll_ctl(queue, operation, fd, &event);
}

static void buffer_free(struct buffer *b) {
    free(b->data);
    *b = (struct buffer){0};
}

/* The largest buffer that is not in use: fresh memory costs as much as moving the bytes that it holds. */
static struct buffer spare;

static void give_back(struct buffer *b) {
    struct buffer old = spare;
    if (b->room > spare.room)
        spare = *b, *b = old;
    spare.size = 0;
    buffer_free(b);
}

/* Make room, out of the spare buffer where that is large enough. */
static char *grow(struct buffer *b, size_t more) {
    if (b->size + more > b->room && b->size + more <= spare.room) {
        struct buffer old = *b;
        if (old.size)
            memcpy(spare.data, old.data, old.size);
        *b = (struct buffer){spare.data, old.size, spare.room};
        spare = (struct buffer){old.data, 0, old.room};
    }
    return buffer_room(b, more);
}

/* ---- to the client */

static int number_of(const struct connection *c) { return atoi(c->number); }

static void drop(struct connection *c) {
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    if (c->busy) /* until the child has taken its request and answered */
        return;
    connections[number_of(c)] = NULL;
    c->next = gone;
    gone = c;
}

static void free_gone(void) {
    for (struct connection *c; (c = gone);) {
        gone = c->next;
        buffer_free(&c->in);
        buffer_free(&c->out);
        buffer_free(&c->large);
        free(c);
    }
}

static void push(struct connection *c) {
    size_t large = c->large.size - c->from, past = c->sent > c->out.size ? c->sent - c->out.size : 0;
    struct iovec pieces[2] = {{c->out.data + c->sent, c->out.size - c->sent}, {c->large.data + c->from, large}};
    if (past || c->sent == c->out.size)
        pieces[0].iov_len = 0, pieces[1] = (struct iovec){c->large.data + c->from + past, large - past};
    if (pieces[1].iov_len > STEP)
        pieces[1].iov_len = STEP;
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 2};
    ssize_t n = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN)
        return drop(c);
    c->sent += n > 0 ? (size_t)n : 0;
    bool rest = c->sent < c->out.size + large;
    if (!rest) {
        c->out.size = c->sent = c->from = 0;
        give_back(&c->large);
    }
    if (rest != c->waits)
        watch(EPOLL_CTL_MOD, c->fd, EPOLLIN | (rest ? EPOLLOUT : 0), c);
    c->waits = rest;
}

/* The exchange is over: what was read of it goes, what was answered is sent. */
static void finish(struct connection *c) {
    c->busy = false;
    c->in.size = c->head = 0;
    if (c->in.room > KEPT)
        give_back(&c->in);
    if (c->fd < 0)
        return drop(c);
    push(c);
}

static void answer_head(struct connection *c, const char *status, size_t length) {
    buffer_format(&c->out, "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n", status, length);
    if (c->session)
        buffer_format(&c->out, "mcp-session-id: %04x%016llx\r\n", (unsigned)(c->session - sessions),
                      (unsigned long long)c->session->secret);
    buffer_text(&c->out, "\r\n");
}

static void answer(struct connection *c, const char *status) {
    answer_head(c, status, 0);
    finish(c);
}

/* Send a line back with the client's id in the place of ours. */
static void answer_line(struct connection *c, struct session *s, struct span line, struct span id) {
    struct span before = {line.at, (size_t)(id.at - line.at)}, after = {id.at + id.size, 0};
    after.size = line.size - before.size - id.size;
    answer_head(c, "200 OK", before.size + c->id.size + after.size);
    buffer_add(&c->out, before.at, before.size);
    buffer_add(&c->out, c->id.at, c->id.size);
    if (after.size < TAKEN) {
        buffer_add(&c->out, after.at, after.size);
    } else { /* the buffer changes hands; what follows the line stays behind */
        size_t from = (size_t)(after.at - s->lines.data), end = from + after.size + 1;
        struct buffer rest = {0};
        buffer_add(&rest, s->lines.data + end, s->lines.size - end);
        c->large = s->lines;
        c->large.size = end - 1;
        c->from = from;
        s->lines = rest;
    }
    finish(c);
}

/* ---- to the child and back */

static void close_input(struct session *s) {
    if (s->input >= 0)
        close(s->input);
    s->input = -1;
}

static int request_pieces(struct session *s, struct iovec *pieces, size_t skip) {
    int count = 0;
    for (struct connection *c = s->first; c && count + 3 <= PIECES; c = c->next) {
        struct iovec parts[3] = {{(char *)(uintptr_t)c->before.at, c->before.size},
                                 {c->number, c->notifies ? 0 : strlen(c->number)},
                                 {(char *)(uintptr_t)c->after.at, c->after.size}};
        for (int i = 0; i < 3; i++) {
            size_t done = skip < parts[i].iov_len ? skip : parts[i].iov_len;
            skip -= done;
            if (parts[i].iov_len > done)
                pieces[count++] = (struct iovec){(char *)parts[i].iov_base + done, parts[i].iov_len - done};
        }
    }
    return count;
}

static size_t request_size(const struct connection *c) {
    return c->before.size + (c->notifies ? 0 : strlen(c->number)) + c->after.size;
}

/* Write once; what a pipe does not take waits until it has room. */
static void write_input(struct session *s) {
    struct iovec pieces[PIECES];
    if (s->input < 0)
        return;
    ssize_t n = writev(s->input, pieces, request_pieces(s, pieces, s->written));
    if (n < 0 && errno != EAGAIN)
        close_input(s); /* whoever waits is told when its output ends */
    s->written += n > 0 ? (size_t)n : 0;
    for (struct connection *c; (c = s->first) && s->written >= request_size(c);) {
        s->written -= request_size(c);
        s->first = c->next;
        if (c->notifies)
            answer(c, "202 Accepted");
    }
    bool rest = s->first;
    if (s->input >= 0 && rest != s->waits)
        watch(EPOLL_CTL_MOD, s->input, rest ? EPOLLOUT : 0, &s->input_kind);
    s->waits = rest;
}

/* All that comes in one round goes out by one write. */
static void enqueue(struct connection *c) {
    struct session *s = c->session;
    c->next = NULL;
    *(s->first ? &s->last->next : &s->first) = c;
    s->last = c;
    if (!s->queued && !s->waits) {
        s->queued = true;
        s->next_queued = queued;
        queued = s;
    }
}

static void write_queued(void) {
    while (queued) {
        struct session *s = queued;
        queued = s->next_queued;
        s->queued = false;
        if (s->first)
            write_input(s);
    }
}

static void end_session(struct session *s) {
    close_input(s);
    close(s->output);
    s->output = -1;
    s->first = NULL;
    s->pid = s->pid < 0 ? 0 : s->pid;
    for (int i = 0; i < connection_count; i++)
        if (connections[i] && connections[i]->busy && connections[i]->session == s)
            answer(connections[i], "502 Bad Gateway");
    buffer_free(&s->lines);
    s->searched = 0;
}

static void take_line(struct session *s, struct span line) {
    json_long.from = NULL;
    struct span id = json_member(line, "id");
    if (!id.at || json_member(line, "method").at)
        return; /* a request or a notification of its own */
    unsigned long number = strtoul(id.at, NULL, 10);
    struct connection *c = number < CONNECTIONS ? connections[number] : NULL;
    if (c && c->busy && c->session == s && !c->notifies)
        answer_line(c, s, line, id);
}

static void read_output(struct session *s) {
    if (s->output < 0)
        return;
    ssize_t n = read(s->output, grow(&s->lines, TAKEN), TAKEN);
    if (n <= 0)
        return n < 0 && errno == EAGAIN ? (void)0 : end_session(s);
    s->lines.size += (size_t)n;
    size_t start = 0;
    for (char *end; (end = memchr(s->lines.data + s->searched, '\n', s->lines.size - s->searched));) {
        size_t stop = (size_t)(end - s->lines.data);
        char *before = s->lines.data;
        s->searched = stop + 1;
        take_line(s, (struct span){s->lines.data + start, stop - start});
        start = stop + 1;
        if (s->lines.data != before) /* taken: what is left begins with the next line */
            start = s->searched = 0;
        if (!s->lines.size)
            break;
    }
    if (start)
        memmove(s->lines.data, s->lines.data + start, s->lines.size - start);
    s->lines.size -= start;
    s->searched = s->lines.size;
}

/* Start a child. False: there is no room for it, or it could not be started. */
static bool start_child(struct session *s) {
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
        return false;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attributes, &none);
    int failed = posix_spawnp(&s->pid, command[0], &actions, &attributes, command, environ); /* by vfork */
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    close(in[0]);
    close(out[1]);
    s->input = in[1];
    s->output = out[0];
    if (failed || getrandom(&s->secret, sizeof s->secret, 0) != sizeof s->secret)
        return close(in[1]), close(out[0]), s->pid = 0, false;
    fcntl(s->input, F_SETFL, O_NONBLOCK);
    fcntl(s->output, F_SETFL, O_NONBLOCK);
    s->waits = false;
    s->written = 0;
    watch(EPOLL_CTL_ADD, s->input, 0, &s->input_kind);
    watch(EPOLL_CTL_ADD, s->output, EPOLLIN, &s->output_kind);
    return true;
}

static struct session *open_session(void) {
    int slot = 0;
    while (slot < session_count && sessions[slot].pid)
        slot++;
    if (slot == SESSIONS || !start_child(&sessions[slot]))
        return NULL;
    session_count += slot == session_count;
    return &sessions[slot];
}

static void reap(void) {
    child_ended = 0;
    for (pid_t pid; (pid = waitpid(-1, NULL, WNOHANG)) > 0;)
        for (struct session *s = sessions; s < sessions + session_count; s++)
            if (s->pid == pid) {
                s->pid = s->output < 0 ? 0 : -1;
                break;
            }
}

/* ---- from the client */

static struct session *find_session(struct span name) {
    char text[21];
    if (name.size != 20)
        return NULL;
    memcpy(text, name.at, 20);
    text[20] = 0;
    uint64_t secret = strtoull(text + 4, NULL, 16);
    text[4] = 0;
    unsigned long slot = strtoul(text, NULL, 16);
    bool known = slot < SESSIONS && sessions[slot].pid && sessions[slot].secret == secret;
    return known && sessions[slot].input >= 0 ? &sessions[slot] : NULL;
}

/* Read the head: the length of the body and the session. */
static void read_head(struct connection *c, const char *end) {
    struct span name = {NULL, 0};
    c->head = (size_t)(end - c->in.data) + 4;
    c->length = 0;
    for (const char *at = c->in.data, *stop; at < end; at = stop + 2) {
        stop = memmem(at, (size_t)(end + 2 - at), "\r\n", 2);
        if (!strncasecmp(at, "content-length:", 15))
            c->length = strtoul(at + 15, NULL, 10);
        else if (!strncasecmp(at, "mcp-session-id:", 15)) {
            name.at = at + 15 + strspn(at + 15, " ");
            name.size = (size_t)(stop - name.at);
        }
    }
    c->session = name.at ? find_session(name) : NULL;
}

static void take_request(struct connection *c) {
    char *body = c->in.data + c->head;
    c->busy = true;
    if (!memcmp(c->in.data, "DELETE", 6) && c->session) {
        close_input(c->session);
        return answer(c, "204 No Content");
    }
    body[c->length] = '\n'; /* there is room for it, and no pipelining */
    json_long.from = NULL;
    struct span message = {body, c->length}, method = json_member(message, "method");
    c->id = json_member(message, "id");
    if (!c->session && json_is_string(method, "initialize"))
        c->session = open_session();
    if (!c->session || memcmp(c->in.data, "POST", 4))
        return answer(c, c->session ? "405 Method Not Allowed" : "404 Not Found");
    c->notifies = !c->id.at || !method.at;
    c->before = (struct span){body, c->notifies ? 0 : (size_t)(c->id.at - body)};
    c->after.at = c->notifies ? body : c->id.at + c->id.size;
    c->after.size = (size_t)(body + c->length + 1 - c->after.at);
    enqueue(c);
}

static void take(struct connection *c) {
    size_t whole = c->head ? c->head + c->length : 0;
    size_t want = whole > c->in.size + 4096 ? whole - c->in.size : 4096;
    ssize_t n = recv(c->fd, grow(&c->in, want + 1), want < STEP ? want : STEP, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 || c->busy || c->out.size)
        return drop(c);
    c->in.size += (size_t)n;
    char *end = c->head ? NULL : memmem(c->in.data, c->in.size, "\r\n\r\n", 4);
    if (end)
        read_head(c, end);
    if (c->head ? c->length > BODY_MAX || c->in.size > c->head + c->length : c->in.size > HEAD_MAX)
        return drop(c);
    if (c->head && c->in.size == c->head + c->length)
        take_request(c);
}

static void accept_one(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), one = 1, slot = 0;
    while (slot < connection_count && connections[slot])
        slot++;
    struct connection *c = fd >= 0 && slot < CONNECTIONS ? calloc(1, sizeof *c) : NULL;
    if (!c) {
        close(fd);
        return;
    }
    c->kind = CONNECTION;
    c->fd = fd;
    snprintf(c->number, sizeof c->number, "%d", slot);
    connections[slot] = c;
    connection_count += slot == connection_count;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(EPOLL_CTL_ADD, fd, EPOLLIN, c);
}

static void handle(int listener, struct epoll_event event) {
    enum kind *kind = event.data.ptr;
    struct connection *c = event.data.ptr;
    if (*kind == LISTENER)
        accept_one(listener);
    else if (*kind == INPUT)
        write_input((struct session *)((char *)kind - offsetof(struct session, input_kind)));
    else if (*kind == OUTPUT)
        read_output((struct session *)((char *)kind - offsetof(struct session, output_kind)));
    else if (c->fd >= 0 && event.events & EPOLLOUT)
        push(c);
    else if (c->fd >= 0)
        take(c);
}

static void on_child(int number) {
    (void)number;
    child_ended = 1; /* and the wait ends */
}

static int listen_on_loopback(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024))
        return -1;
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("http://127.0.0.1:%d/mcp\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(int argc, char **argv) {
    static enum kind kind = LISTENER;
    struct rlimit files;
    sigset_t blocked, unblocked;
    command = argv + 1;
    if (argc < 2)
        return fprintf(stderr, "usage: bridge COMMAND [ARGUMENT...]\n"), 2;
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    for (struct session *s = sessions; s < sessions + SESSIONS; s++)
        s->input_kind = INPUT, s->output_kind = OUTPUT, s->input = s->output = -1;
    signal(SIGPIPE, SIG_IGN);
    struct sigaction action = {.sa_handler = on_child};
    sigaction(SIGCHLD, &action, NULL);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    sigprocmask(SIG_BLOCK, &blocked, &unblocked);
    queue = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on_loopback();
    if (listener < 0)
        return perror("bridge"), 1;
    watch(EPOLL_CTL_ADD, listener, EPOLLIN, &kind);
    for (;;) {
        struct epoll_event events[64];
        int n = epoll_pwait(queue, events, 64, -1, &unblocked); /* where SIGCHLD can come */
        for (int i = 0; i < n; i++)
            handle(listener, events[i]);
        if (child_ended)
            reap();
        write_queued();
        free_gone();
    }
}

/* The load generator: many MCP clients over keep-alive HTTP/1.1, in one thread over epoll.
 *
 * It checks the id and the content of every answer. A call counts only when both are right; an
 * answer that is somebody else's counts as `wrong`, everything else that fails as an error. It
 * talks to the loopback interface only and is bounded in time and count. loader.py is the same
 * program for machines without a compiler or epoll: same arguments, same output (one JSON line).
 *
 * Source of the exchange: MCP 2025-11-25, basic/transports, "Streamable HTTP"; in the modern era, which
 * knows no sessions, MCP 2026-07-28, basic/transports/streamable-http.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"

#define CONNECTIONS_MAX 1024
#define SESSIONS_MAX 10000
#define SECONDS_MAX 120.0
#define COUNT_MAX 4000000L
#define PIDS_MAX 16
#define ANSWER_MAX (128u << 20)
#define REQUEST_TIMEOUT 30.0 /* an answer that takes longer is an error */

enum mode { CALLS, CYCLES, HOLD };
enum step { OPEN, READY, CALL, CLOSE };
enum phase { SETUP, WARMUP, MEASURE, DRAIN, ENDING };
enum verdict { RIGHT, WRONG, FAILED };

struct session {
    char name[200]; /* the Mcp-Session-Id; empty before it is open */
    long last_id;   /* ids start anew in every session, as real clients do */
};

struct connection {
    int fd, index;
    bool busy, waits, head_done, chunked, events, last;
    enum step step;
    struct session *session;
    struct buffer in, out, body, expected;
    size_t sent, head, length, scanned;
    int status;
    long id;
    double asked, began; /* this request, this cycle */
};

static struct {
    enum mode mode;
    int port, connections, sessions, pids[PIDS_MAX], pid_count, cpu;
    char path[200];
    bool modern;
    const char *constant;
    double seconds, warmup;
    long count, text_bytes, blob_bytes;
} options = {.connections = 1, .sessions = 1, .cpu = -1, .seconds = 3, .count = COUNT_MAX, .text_bytes = 32};

static struct connection connections[CONNECTIONS_MAX];
static struct session sessions[SESSIONS_MAX];
static int queue, open_sessions, next_closing;
static enum phase phase;
static double now, phase_began, measured, cpu_began, cpu_spent = -1;
static long calls, errors, wrong;
static float *latencies; /* microseconds, one per counted call */
static char first_error[300];

static double clock_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* User and system time of the given processes, threads included; -1 where it cannot be read. */
static double cpu_seconds(void) {
    double sum = options.pid_count ? 0 : -1;
    for (int i = 0; i < options.pid_count; i++) {
        char name[64], text[1024], *after;
        unsigned long user, system;
        snprintf(name, sizeof name, "/proc/%d/stat", options.pids[i]);
        FILE *file = fopen(name, "r");
        size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
        if (file)
            fclose(file);
        text[n] = 0;
        after = strrchr(text, ')');
        if (!after || sscanf(after + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
            return -1;
        sum += (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
    }
    return sum;
}

static void fail(const char *what) {
    fprintf(stderr, "load: %s%s%s\n", what, first_error[0] ? ": " : "", first_error);
    exit(1);
}

/* Keep the first failure's words, made safe to print inside a JSON string. */
static void note(const char *what, int status, const char *data, size_t size) {
    if (first_error[0])
        return;
    snprintf(first_error, sizeof first_error, "%s (HTTP %d): %.*s", what, status, (int)(size > 200 ? 200 : size), data);
    for (char *p = first_error; *p; p++)
        if (*p < ' ' || *p > '~' || *p == '"' || *p == '\\')
            *p = '\'';
}

/* ---- requests */

static void disconnect(struct connection *c) {
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->waits = c->busy = false;
    c->in.size = c->out.size = c->sent = 0;
}

static void reach(struct connection *c) {
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)options.port)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to))
        fail("cannot connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(queue, EPOLL_CTL_ADD, c->fd, &event);
}

static void push(struct connection *c) {
    while (c->sent < c->out.size) {
        ssize_t n = send(c->fd, c->out.data + c->sent, c->out.size - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0)
            break; /* full; a broken connection is told by the next recv */
        c->sent += (size_t)n;
    }
    bool rest = c->sent < c->out.size;
    if (rest != c->waits) {
        struct epoll_event event = {.events = EPOLLIN | (rest ? EPOLLOUT : 0), .data.ptr = c};
        epoll_ctl(queue, EPOLL_CTL_MOD, c->fd, &event);
        c->waits = rest;
    }
}

static const char *tool(void) { return options.blob_bytes ? "blob" : "echo"; }

static void write_body(struct connection *c, struct buffer *body) {
    body->size = 0;
    buffer_room(body, 1);
    if (c->step == CLOSE)
        return;
    if (c->step == READY)
        return buffer_text(body, "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}");
    c->id = ++c->session->last_id;
    buffer_format(body, "{\"jsonrpc\":\"2.0\",\"id\":%ld,", c->id);
    if (c->step == OPEN)
        return buffer_text(body, "\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"" LEGACY_VERSION
                                 "\",\"capabilities\":{},\"clientInfo\":{\"name\":\"load\",\"version\":\"1\"}}}");
    buffer_text(body, "\"method\":\"tools/call\",\"params\":{");
    if (options.modern)
        buffer_text(body, "\"_meta\":{\"" PREFIX "protocolVersion\":\"" MODERN_VERSION "\",\"" PREFIX
                          "clientCapabilities\":{}},");
    buffer_format(body, "\"name\":\"%s\",\"arguments\":", tool());
    struct buffer *expected = &c->expected;
    expected->size = 0;
    if (options.blob_bytes) {
        char fill = (char)('a' + (c->index + c->id) % 26);
        buffer_format(body, "{\"bytes\":%ld,\"fill\":\"%c\"}}}", options.blob_bytes, fill);
        memset(buffer_room(expected, (size_t)options.blob_bytes + 1), fill, (size_t)options.blob_bytes);
        expected->size = (size_t)options.blob_bytes;
    } else {
        buffer_format(expected, "%d-%ld-", c->index, c->id); /* nobody else's answer looks like it */
        size_t pad = expected->size < (size_t)options.text_bytes ? (size_t)options.text_bytes - expected->size : 0;
        memset(buffer_room(expected, pad + 1), '.', pad);
        expected->size += pad;
        buffer_text(body, "{\"text\":\"");
        buffer_add(body, expected->data, expected->size);
        buffer_text(body, "\"}}}");
    }
    buffer_room(expected, 1)[0] = 0;
}

static void ask(struct connection *c, enum step step) {
    static struct buffer body;
    if (c->fd < 0)
        reach(c);
    c->step = step;
    write_body(c, &body);
    c->out.size = c->sent = 0;
    buffer_text(&c->out, step == CLOSE ? "DELETE " : "POST ");
    buffer_text(&c->out, options.path);
    buffer_format(&c->out, " HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n", options.port);
    buffer_text(&c->out, "accept: application/json, text/event-stream\r\n");
    if (c->session->name[0] && step != OPEN)
        buffer_format(&c->out, "mcp-session-id: %s\r\nmcp-protocol-version: " LEGACY_VERSION "\r\n", c->session->name);
    if (options.modern)
        buffer_format(&c->out, "mcp-protocol-version: " MODERN_VERSION "\r\nmcp-method: tools/call\r\nmcp-name: %s\r\n",
                      tool());
    if (step != CLOSE)
        buffer_format(&c->out, "content-type: application/json\r\ncontent-length: %zu\r\n", body.size);
    buffer_text(&c->out, "\r\n");
    buffer_add(&c->out, body.data, body.size);
    c->busy = true;
    c->head_done = c->chunked = c->events = c->last = false;
    c->in.size = c->body.size = c->length = c->scanned = 0;
    c->asked = now;
    push(c);
}

/* ---- answers */

static void read_head(struct connection *c, const char *end) {
    c->head = (size_t)(end - c->in.data) + 4;
    c->head_done = true;
    c->scanned = c->head;
    c->status = c->in.size > 12 ? atoi(c->in.data + 9) : 0;
    for (char *line = c->in.data, *stop; (stop = memchr(line, '\r', (size_t)(end + 2 - line))) && stop <= end;
         line = stop + 2) {
        size_t size = (size_t)(stop - line);
        if (!strncasecmp(line, "content-length:", 15))
            c->length = strtoul(line + 15, NULL, 10);
        else if (!strncasecmp(line, "transfer-encoding:", 18))
            c->chunked = memmem(line, size, "chunked", 7);
        else if (!strncasecmp(line, "content-type:", 13))
            c->events = memmem(line, size, "text/event-stream", 17);
        else if (!strncasecmp(line, "connection:", 11))
            c->last = memmem(line, size, "close", 5);
        else if (!strncasecmp(line, "mcp-session-id:", 15) && c->step == OPEN)
            snprintf(c->session->name, sizeof c->session->name, "%.*s", (int)(size - 15 - (line[15] == ' ')),
                     line + 15 + (line[15] == ' '));
    }
}

/* Move whole chunks from `in` to `body`. 1: that was all, 0: more must come, -1: not HTTP. */
static int read_chunks(struct connection *c) {
    for (;;) {
        char *at = c->in.data + c->scanned, *stop = memchr(at, '\n', c->in.size - c->scanned);
        if (!stop)
            return 0;
        char *digits_end;
        buffer_room(&c->in, 1);
        size_t size = strtoul(at, &digits_end, 16), line = (size_t)(stop + 1 - at);
        if (digits_end == at || size > ANSWER_MAX)
            return -1;
        if (c->in.size - c->scanned < line + size + 2)
            return 0;
        buffer_add(&c->body, c->in.data + c->scanned + line, size);
        c->scanned += line + size + 2;
        if (!size)
            return 1;
    }
}

/* 1: `data` is the whole body of an answer, 0: more must come, -1: not HTTP. */
static int read_answer(struct connection *c, struct span *data) {
    if (!c->head_done) {
        char *end = memmem(c->in.data, c->in.size, "\r\n\r\n", 4);
        if (!end)
            return c->in.size > 65536 ? -1 : 0;
        read_head(c, end);
    }
    if (c->chunked) {
        int done = read_chunks(c);
        *data = (struct span){c->body.data, c->body.size};
        return done;
    }
    *data = (struct span){c->in.data + c->head, c->length};
    return c->in.size >= c->head + c->length;
}

/* The message of the first event that holds an answer; other events are requests and notifications. */
static struct span answer_in_events(struct span stream) {
    const char *p = stream.at, *end = stream.at + stream.size;
    while (p < end) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        stop = stop ? stop : end;
        if (stop - p > 5 && !memcmp(p, "data:", 5)) {
            struct span message = json_parse(p + 5, (size_t)(stop - p - 5));
            if (json_member(message, "result").at || json_member(message, "error").at)
                return message;
        }
        p = stop + 1;
    }
    return (struct span){NULL, 0};
}

static enum verdict judge(struct connection *c, struct span body) {
    if (c->step == CLOSE)
        return c->status / 100 == 2 ? RIGHT : FAILED;
    if (c->step == READY)
        return c->status == 202 ? RIGHT : FAILED;
    if (c->status != 200)
        return FAILED;
    if (options.constant)
        return json_is(body, options.constant, strlen(options.constant)) ? RIGHT : WRONG;
    struct span message = c->events ? answer_in_events(body) : json_parse(body.at, body.size);
    struct span result = json_member(message, "result");
    if (!result.at || json_is(json_member(result, "isError"), "true", 4))
        return FAILED;
    if (json_is_string(json_member(result, "resultType"), "complete") != options.modern)
        return FAILED; /* the other era's answer */
    char id[32];
    if (!json_is(json_member(message, "id"), id, (size_t)snprintf(id, sizeof id, "%ld", c->id)))
        return WRONG;
    if (c->step == OPEN)
        return json_member(result, "protocolVersion").at && c->session->name[0] ? RIGHT : FAILED;
    struct span text = json_member(json_first(json_member(result, "content")), "text");
    return json_is_string(text, c->expected.data) ? RIGHT : WRONG;
}

/* ---- what happens when */

static void enter(enum phase next) {
    if (next == MEASURE)
        cpu_began = cpu_seconds();
    if (phase == MEASURE) {
        double cpu = cpu_seconds();
        cpu_spent = cpu < 0 ? -1 : cpu - cpu_began;
        measured = now - phase_began;
    }
    phase = next;
    phase_began = now;
}

static void start_load(void) {
    enter(options.warmup > 0 ? WARMUP : MEASURE);
    for (int i = 0; i < options.connections; i++) {
        struct connection *c = &connections[i];
        c->session = &sessions[options.mode == CALLS ? i % options.sessions : i];
        c->began = now;
        ask(c, options.mode == CALLS ? CALL : OPEN);
    }
}

/* Every session is open and idle: tell it, and wait until our input ends. */
static void hold(void) {
    disconnect(&connections[0]);
    printf("{\"held\": %d}\n", open_sessions);
    fflush(stdout);
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    poll(&input, 1, (int)(options.seconds * 1000));
    now = clock_now();
    enter(DRAIN);
}

static void count(double since) {
    if (phase == MEASURE && calls < options.count)
        latencies[calls++] = (float)((now - since) * 1e6);
}

static void tick(void) {
    if (phase == WARMUP && now - phase_began >= options.warmup)
        enter(MEASURE);
    else if (phase == MEASURE && (now - phase_began >= options.seconds || calls >= options.count))
        enter(DRAIN);
}

/* One step of a session is done: what this connection does next. */
static void proceed(struct connection *c) {
    if (phase == ENDING)
        return;
    if (c->step == OPEN)
        return ask(c, READY);
    if (phase == SETUP && options.mode == CALLS) {
        if (++open_sessions == options.sessions)
            start_load();
    } else if (options.mode == HOLD && phase == SETUP) {
        if (c->step == READY)
            return ask(c, CALL);
        if (++open_sessions == options.sessions)
            return hold();
        c->session = &sessions[open_sessions];
        ask(c, OPEN);
    } else if (options.mode == CALLS) {
        count(c->asked);
        if (phase != DRAIN)
            ask(c, CALL);
    } else if (options.mode == CYCLES) {
        if (c->step != CLOSE)
            return ask(c, c->step + 1);
        count(c->began);
        c->session->name[0] = 0;
        c->session->last_id = 0;
        c->began = now;
        if (phase != DRAIN)
            ask(c, OPEN);
    }
}

static void stumble(struct connection *c, enum verdict verdict, const char *why, struct span body) {
    note(why, c->status, body.at ? body.at : "", body.size);
    if (verdict == WRONG)
        wrong++;
    else
        errors++;
    if (phase == SETUP)
        fail("could not open the sessions");
    if (phase == DRAIN || phase == ENDING)
        return;
    if (options.mode == CYCLES) {
        c->session->name[0] = 0;
        c->session->last_id = 0;
        c->began = now;
    }
    ask(c, options.mode == CALLS ? CALL : OPEN);
}

static void receive(struct connection *c) {
    size_t want = 16384;
    if (c->head_done && !c->chunked && c->head + c->length > c->in.size)
        want = c->head + c->length - c->in.size;
    ssize_t n = recv(c->fd, buffer_room(&c->in, want + 1), want, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    struct span body = {NULL, 0};
    bool busy = c->busy;
    if (n > 0)
        c->in.size += (size_t)n;
    int done = n <= 0 || !busy ? -1 : read_answer(c, &body);
    if (!done)
        return;
    if (done < 0) {
        disconnect(c);
        if (busy)
            stumble(c, FAILED, "the connection broke", (struct span){NULL, 0});
        return;
    }
    c->busy = false;
    enum verdict verdict = judge(c, body);
    if (verdict != RIGHT)
        note(verdict == WRONG ? "wrong answer" : "error", c->status, body.at ? body.at : "", body.size);
    if (c->last)
        disconnect(c);
    if (verdict == RIGHT)
        proceed(c);
    else
        stumble(c, verdict, "", (struct span){NULL, 0});
}

static void expire(void) {
    for (int i = 0; i < options.connections; i++) {
        struct connection *c = &connections[i];
        if (c->busy && now - c->asked > REQUEST_TIMEOUT) {
            disconnect(c);
            stumble(c, FAILED, "no answer in time", (struct span){NULL, 0});
        }
    }
}

static bool any_busy(void) {
    for (int i = 0; i < options.connections; i++)
        if (connections[i].busy)
            return true;
    return false;
}

/* Close the sessions one after the other over the first connection. False: none is left. */
static bool close_next(void) {
    if (options.constant)
        return false;
    for (; next_closing < options.sessions; next_closing++)
        if (sessions[next_closing].name[0]) {
            connections[0].session = &sessions[next_closing++];
            ask(&connections[0], CLOSE);
            return true;
        }
    return false;
}

static void run(void) {
    double checked = now = clock_now();
    for (int i = 0; i < options.connections; i++) {
        connections[i].fd = -1;
        connections[i].index = i;
    }
    if (options.constant || options.mode == CYCLES)
        start_load();
    else
        for (int i = 0; i < (options.mode == HOLD ? 1 : options.sessions); i++) {
            connections[i].session = &sessions[i];
            /* Without sessions a first call does what opening one does: it starts the child. */
            ask(&connections[i], options.modern ? CALL : OPEN);
        }
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(queue, events, 256, 50);
        now = clock_now();
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->fd >= 0 && events[i].events & EPOLLOUT)
                push(c);
            if (c->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                now = clock_now();
                receive(c);
            }
        }
        tick();
        if (now - checked > 1) {
            checked = now;
            expire();
        }
        if (phase == DRAIN && !any_busy())
            enter(ENDING);
        if (phase == ENDING && !any_busy() && !close_next())
            return;
    }
}

/* ---- the command line */

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void report(void) {
    qsort(latencies, (size_t)calls, sizeof *latencies, by_size);
    double p50 = calls ? latencies[calls / 2] : 0, p99 = calls ? latencies[calls * 99 / 100] : 0;
    printf("{\"calls\": %ld, \"seconds\": %.6f, \"rps\": %.1f, \"p50_us\": %.2f, \"p99_us\": %.2f, \"errors\": %ld, "
           "\"wrong\": %ld, ",
           calls, measured, measured > 0 ? (double)calls / measured : 0, p50, p99, errors, wrong);
    if (cpu_spent >= 0)
        printf("\"cpu_seconds\": %.3f, ", cpu_spent);
    else
        printf("\"cpu_seconds\": null, ");
    printf("\"first_error\": \"%s\"}\n", first_error);
}

static long number(const char *text, long least, long most) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || value < least || value > most)
        fail("a number is out of range");
    return value;
}

static double seconds(const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (*end || !(value >= 0 && value <= SECONDS_MAX))
        fail("a time is out of range");
    return value;
}

static void parse(int argc, char **argv) {
    static const struct option names[] = {
        {"mode", 1, 0, 'm'},    {"url", 1, 0, 'u'},     {"connections", 1, 0, 'c'}, {"sessions", 1, 0, 's'},
        {"seconds", 1, 0, 't'}, {"warmup", 1, 0, 'w'},  {"count", 1, 0, 'n'},       {"text-bytes", 1, 0, 'x'},
        {"blob-bytes", 1, 0, 'b'}, {"constant", 1, 0, 'k'}, {"pid", 1, 0, 'p'},     {"cpu", 1, 0, 'a'},
        {"era", 1, 0, 'e'},     {0}};
    for (int o; (o = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (o == 'm')
            options.mode = !strcmp(optarg, "cycles") ? CYCLES : !strcmp(optarg, "hold") ? HOLD : CALLS;
        else if (o == 'e')
            options.modern = !strcmp(optarg, "modern");
        else if (o == 'u' && sscanf(optarg, "http://127.0.0.1:%d%199s", &options.port, options.path) != 2)
            fail("the URL is not http://127.0.0.1:PORT/PATH");
        else if (o == 'c')
            options.connections = (int)number(optarg, 1, CONNECTIONS_MAX);
        else if (o == 's')
            options.sessions = (int)number(optarg, 1, SESSIONS_MAX);
        else if (o == 't')
            options.seconds = seconds(optarg);
        else if (o == 'w')
            options.warmup = seconds(optarg);
        else if (o == 'n')
            options.count = number(optarg, 1, COUNT_MAX);
        else if (o == 'x')
            options.text_bytes = number(optarg, 0, 1 << 20);
        else if (o == 'b')
            options.blob_bytes = number(optarg, 1, BLOB_MAX);
        else if (o == 'k')
            options.constant = optarg;
        else if (o == 'a')
            options.cpu = (int)number(optarg, 0, CPU_SETSIZE - 1);
        else if (o == 'p' && options.pid_count < PIDS_MAX)
            options.pids[options.pid_count++] = (int)number(optarg, 1, INT32_MAX);
        else if (o == '?')
            exit(2);
    }
    if (!options.port)
        fail("no --url");
    if (options.mode == CALLS && options.sessions > options.connections)
        fail("more sessions than connections");
    if (options.mode != CALLS && options.modern)
        fail("there are no sessions in the modern era");
    if (options.mode == HOLD)
        options.connections = 1;
    if (options.mode == CYCLES)
        options.sessions = options.connections;
}

int main(int argc, char **argv) {
    parse(argc, argv);
    if (options.cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(options.cpu, &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    queue = epoll_create1(EPOLL_CLOEXEC);
    latencies = malloc((size_t)options.count * sizeof *latencies);
    if (queue < 0 || !latencies)
        fail("no resources");
    run();
    report();
    return 0;
}

/* One exchange of the load generator: what is asked of a server, and whether its answer is right. */
#ifndef BENCH_LOAD_EXCHANGE_H
#define BENCH_LOAD_EXCHANGE_H

#include <time.h>

#include "client.h"
#include "load_options.h"

enum step { OPEN, READY, CALL, CLOSE };
enum phase { SETUP, WARMUP, MEASURE, DRAIN, ENDING };
enum verdict { RIGHT, WRONG, FAILED };

struct session {
    char name[200];   /* the Mcp-Session-Id; empty: the server gives none */
    char version[32]; /* what was negotiated */
    long last_id;     /* ids start anew in every session, as real clients do */
};

struct connection {
    struct client http;
    int index;
    bool busy;
    enum step step;
    struct session *session;
    struct buffer expected;
    size_t seed;
    long id;
    double asked, began; /* this request, this cycle */
};

static enum phase phase;
static double now;
static char first_error[300];

static double clock_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
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

/* Sessions are opened with small calls, whatever is measured afterwards. */
static bool large(size_t bytes) { return bytes && phase != SETUP; }

static const char *tool(void) {
    return large(options.result_bytes)     ? "blob"
           : large(options.argument_bytes) ? "digest"
           : options.progress              ? "progress"
                                           : "echo";
}

/* Nobody else's text begins like it. */
static void add_unique(const struct connection *c, struct buffer *text, size_t size) {
    text->size = 0;
    buffer_format(text, "%d-%ld-", c->index, c->id);
    size_t pad = text->size < size ? size - text->size : 0;
    memset(buffer_room(text, pad + 1), '.', pad);
    text->size += pad;
}

/* The text is sent out of the pattern; what is expected is its digest. */
static void write_large_argument(struct connection *c, struct buffer *body) {
    struct client *http = &c->http;
    struct sums sums = {0, 0};
    add_unique(c, &c->expected, PREFIX_SIZE);
    buffer_text(body, "{\"text\":\"");
    buffer_add(body, c->expected.data, PREFIX_SIZE);
    http->pad = options.argument_bytes - PREFIX_SIZE;
    http->pad_offset = c->seed * 8;
    http->tail = "\"}}}";
    sums_add(&sums, c->expected.data, PREFIX_SIZE);
    for (size_t done = 0, piece; done < http->pad; done += piece) {
        piece = http->pad - done;
        const char *from = pattern_piece(http->pad_offset + done, &piece);
        sums_add(&sums, from, piece);
    }
    c->expected.size = digest_format(buffer_room(&c->expected, DIGEST_SIZE) - PREFIX_SIZE, options.argument_bytes, sums);
}

static void write_call(struct connection *c, struct buffer *body) {
    buffer_text(body, "\"method\":\"tools/call\",\"params\":{");
    if (options.modern || options.progress)
        buffer_text(body, "\"_meta\":{");
    if (options.modern)
        buffer_text(body, "\"" PREFIX "protocolVersion\":\"" MODERN_VERSION "\",\"" PREFIX "clientCapabilities\":{}");
    if (options.progress)
        buffer_format(body, "%s\"progressToken\":%ld", options.modern ? "," : "", c->id);
    if (options.modern || options.progress)
        buffer_text(body, "},");
    buffer_format(body, "\"name\":\"%s\",\"arguments\":", tool());
    c->seed = ((size_t)c->index * 4099 + (size_t)c->id) % PATTERN_WORDS;
    if (large(options.result_bytes)) {
        buffer_format(body, "{\"bytes\":%zu,\"seed\":%zu}}}", options.result_bytes, c->seed);
    } else if (large(options.argument_bytes)) {
        write_large_argument(c, body);
    } else {
        add_unique(c, &c->expected, options.text_bytes);
        buffer_text(body, "{\"text\":\"");
        buffer_add(body, c->expected.data, c->expected.size);
        buffer_text(body, "\"}}}");
    }
}

static void write_body(struct connection *c, struct buffer *body) {
    body->size = 0;
    buffer_room(body, 1);
    if (c->step == CLOSE)
        return;
    if (c->step == READY)
        return buffer_text(body, "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}");
    c->id = ++c->session->last_id;
    buffer_format(body, "{\"jsonrpc\":\"2.0\",\"id\":%ld,", c->id);
    if (c->step == CALL)
        return write_call(c, body);
    buffer_text(body, "\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"" LEGACY_VERSION
                      "\",\"capabilities\":{},\"clientInfo\":{\"name\":\"load\",\"version\":\"1\"}}}");
}

static void ask(struct connection *c, enum step step) {
    static struct buffer body;
    struct client *http = &c->http;
    struct buffer *out = &http->out;
    if (http->fd < 0 && !client_connect(http, options.port))
        fail("cannot connect");
    c->step = step;
    client_begin(http);
    write_body(c, &body);
    buffer_text(out, step == CLOSE ? "DELETE " : "POST ");
    buffer_text(out, options.path);
    buffer_format(out, " HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n", options.port);
    buffer_text(out, "accept: application/json, text/event-stream\r\n");
    if (c->session->name[0] && step != OPEN)
        buffer_format(out, "mcp-session-id: %s\r\n", c->session->name);
    if (c->session->version[0] && step != OPEN)
        buffer_format(out, "mcp-protocol-version: %s\r\n", c->session->version);
    if (options.modern)
        buffer_format(out, "mcp-protocol-version: " MODERN_VERSION "\r\nmcp-method: tools/call\r\nmcp-name: %s\r\n",
                      tool());
    if (step != CLOSE)
        buffer_format(out, "content-type: application/json\r\ncontent-length: %zu\r\n",
                      body.size + http->pad + strlen(http->tail));
    buffer_text(out, "\r\n");
    buffer_add(out, body.data, body.size);
    c->busy = true;
    c->asked = now = clock_now();
    client_push(http);
}

static void disconnect(struct connection *c) {
    client_close(&c->http);
    c->busy = false;
}

/* ---- answers */

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

static enum verdict judge_opened(struct connection *c, struct span result) {
    struct span version = json_member(result, "protocolVersion");
    if (!version.at || version.size < 2 || version.size > sizeof c->session->version)
        return FAILED;
    snprintf(c->session->version, sizeof c->session->version, "%.*s", (int)version.size - 2, version.at + 1);
    snprintf(c->session->name, sizeof c->session->name, "%s", c->http.session);
    return RIGHT;
}

static enum verdict judge_text(struct connection *c, struct span text) {
    if (options.progress && !c->http.events)
        return FAILED; /* progress cannot come otherwise */
    if (large(options.result_bytes)) {
        if (!text.at || *text.at != '"' || text.size != options.result_bytes + 2)
            return WRONG;
        return pattern_is(text.at + 1, c->seed * 8, options.result_bytes) ? RIGHT : WRONG;
    }
    bool quoted = text.at && *text.at == '"' && text.size == c->expected.size + 2;
    return quoted && !memcmp(text.at + 1, c->expected.data, c->expected.size) ? RIGHT : WRONG;
}

static enum verdict judge(struct connection *c, struct span body) {
    int status = c->http.status;
    if (c->step == CLOSE) /* 405: the server lets nobody end a session, as the specification allows */
        return status / 100 == 2 || status == 405 ? RIGHT : FAILED;
    if (c->step == READY)
        return status / 100 == 2 ? RIGHT : FAILED;
    if (status != 200)
        return FAILED;
    if (options.constant)
        return json_is(body, options.constant, strlen(options.constant)) ? RIGHT : WRONG;
    struct span message = c->http.events ? answer_in_events(body) : json_parse(body.at, body.size);
    struct span result = json_member(message, "result");
    if (!result.at || json_is(json_member(result, "isError"), "true", 4))
        return FAILED;
    if (json_is_string(json_member(result, "resultType"), "complete") != options.modern)
        return FAILED; /* the other era's answer */
    char id[32];
    if (!json_is(json_member(message, "id"), id, (size_t)snprintf(id, sizeof id, "%ld", c->id)))
        return WRONG;
    if (c->step == OPEN)
        return judge_opened(c, result);
    return judge_text(c, json_member(json_first(json_member(result, "content")), "text"));
}

#endif

/* What a small MCP server answers, for child.c (over pipes) and answer.c (over HTTP).
 *
 * Source: MCP 2025-11-25, lifecycle and tools; MCP 2026-07-28, basic and server/discover. Tools: `echo`
 * {text} answers the text, `blob` {bytes, fill} answers that many copies of a character (default `x`).
 * Ids and texts cross as raw bytes. A request is modern that names its version in `_meta`.
 */
#ifndef BENCH_ANSWER_H
#define BENCH_ANSWER_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "json.h"

#define BLOB_MAX (64u << 20)
#define PREFIX "io.modelcontextprotocol/"
#define LEGACY_VERSION "2025-11-25"
#define MODERN_VERSION "2026-07-28"
#define SERVER "{\"name\":\"bench\",\"version\":\"1\"}"

/* What a server takes: one that is modern only refuses whatever is not, `initialize` first of all. */
enum eras { BOTH, LEGACY, MODERN };

struct buffer {
    char *data;
    size_t size, room;
};

/* Make room for `more` bytes; out of memory ends the program: a benchmark has nothing better to do. */
static char *buffer_room(struct buffer *b, size_t more) {
    if (b->size + more > b->room) {
        size_t room = b->room ? b->room : 4096;
        while (room < b->size + more)
            room *= 2;
        b->data = realloc(b->data, room);
        if (!b->data)
            abort();
        b->room = room;
    }
    return b->data + b->size;
}

static void buffer_add(struct buffer *b, const char *data, size_t size) {
    memcpy(buffer_room(b, size), data, size);
    b->size += size;
}

static void buffer_text(struct buffer *b, const char *text) { buffer_add(b, text, strlen(text)); }

static inline void buffer_format(struct buffer *b, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    buffer_text(b, text);
}

#define TOOLS                                                                                             \
    "\"tools\":[{\"name\":\"echo\",\"description\":\"Answer the text.\",\"inputSchema\":{\"type\":"       \
    "\"object\",\"properties\":{\"text\":{\"type\":\"string\"}},\"required\":[\"text\"]}},{\"name\":"     \
    "\"blob\",\"description\":\"Answer many bytes.\",\"inputSchema\":{\"type\":\"object\",\"properties\"" \
    ":{\"bytes\":{\"type\":\"integer\"},\"fill\":{\"type\":\"string\"}},\"required\":[\"bytes\"]}}]"

static inline void answer_call(struct span params, struct buffer *out) {
    struct span name = json_member(params, "name"), arguments = json_member(params, "arguments");
    struct span text = json_member(arguments, "text"), bytes = json_member(arguments, "bytes");
    buffer_text(out, "\"content\":[{\"type\":\"text\",\"text\":");
    if (json_is_string(name, "echo") && text.at && *text.at == '"') {
        buffer_add(out, text.at, text.size);
        buffer_text(out, "}]}}");
        return;
    }
    if (json_is_string(name, "blob") && bytes.at) {
        struct span fill = json_member(arguments, "fill");
        size_t size = strtoul(bytes.at, NULL, 10);
        size = size > BLOB_MAX ? BLOB_MAX : size;
        buffer_text(out, "\"");
        memset(buffer_room(out, size), fill.at && fill.size == 3 ? fill.at[1] : 'x', size);
        out->size += size;
        buffer_text(out, "\"}]}}");
        return;
    }
    buffer_text(out, "\"no such tool\"}],\"isError\":true}}");
}

#define CACHE ",\"ttlMs\":0,\"cacheScope\":\"public\""

/* Open a result; that it is complete is said in the modern era only. */
static inline void answer_result(bool modern, struct buffer *out) {
    buffer_text(out, modern ? "\"result\":{\"resultType\":\"complete\"," : "\"result\":{");
}

/* Append the answer to one message. False: it needs none (a notification, an answer, no JSON). */
static inline bool answer_message(enum eras eras, const char *line, size_t size, struct buffer *out) {
    struct span message = json_parse(line, size);
    struct span id = json_member(message, "id"), method = json_member(message, "method");
    struct span params = json_member(message, "params");
    if (!id.at || !method.at)
        return false;
    buffer_text(out, "{\"jsonrpc\":\"2.0\",\"id\":");
    buffer_add(out, id.at, id.size);
    buffer_text(out, ",");
    bool modern = eras != LEGACY && json_member(json_member(params, "_meta"), PREFIX "protocolVersion").at;
    struct span version = json_member(params, "protocolVersion");
    if (!version.at)
        version = (struct span){"\"" LEGACY_VERSION "\"", sizeof LEGACY_VERSION + 1};
    if (eras == MODERN && !modern) {
        buffer_text(out, "\"error\":{\"code\":-32022,\"message\":\"Unsupported protocol version\",\"data\":"
                         "{\"supported\":[\"" MODERN_VERSION "\"],\"requested\":");
        buffer_add(out, version.at, version.size);
        buffer_text(out, "}}}");
    } else if (json_is_string(method, "tools/call")) {
        answer_result(modern, out);
        answer_call(params, out);
    } else if (!modern && json_is_string(method, "initialize")) {
        answer_result(modern, out);
        buffer_text(out, "\"protocolVersion\":");
        buffer_add(out, version.at, version.size);
        buffer_text(out, ",\"capabilities\":{\"tools\":{}},\"serverInfo\":" SERVER "}}");
    } else if (modern && json_is_string(method, "server/discover")) {
        answer_result(modern, out);
        buffer_text(out, "\"supportedVersions\":[\"" MODERN_VERSION "\"],\"capabilities\":{\"tools\":{}},"
                         "\"_meta\":{\"" PREFIX "serverInfo\":" SERVER "}" CACHE "}}");
    } else if (json_is_string(method, "tools/list")) {
        answer_result(modern, out);
        buffer_text(out, TOOLS);
        buffer_text(out, modern ? CACHE "}}" : "}}");
    } else if (!modern && json_is_string(method, "ping")) {
        buffer_text(out, "\"result\":{}}");
    } else {
        buffer_text(out, "\"error\":{\"code\":-32601,\"message\":\"Method not found\"}}");
    }
    return true;
}

#endif

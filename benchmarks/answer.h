/* What a small MCP server answers, for child.c (over pipes) and answer.c (over HTTP).
 *
 * Source: MCP 2025-11-25, lifecycle and tools. Tools: `echo` {text} answers the text, `blob` {bytes,
 * fill} answers that many copies of a character (default `x`). Ids and texts cross as raw bytes.
 */
#ifndef BENCH_ANSWER_H
#define BENCH_ANSWER_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "json.h"

#define BLOB_MAX (64u << 20)

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
    "{\"tools\":[{\"name\":\"echo\",\"description\":\"Answer the text.\",\"inputSchema\":{\"type\":"      \
    "\"object\",\"properties\":{\"text\":{\"type\":\"string\"}},\"required\":[\"text\"]}},{\"name\":"     \
    "\"blob\",\"description\":\"Answer many bytes.\",\"inputSchema\":{\"type\":\"object\",\"properties\"" \
    ":{\"bytes\":{\"type\":\"integer\"},\"fill\":{\"type\":\"string\"}},\"required\":[\"bytes\"]}}]}"

static inline void answer_call(struct span params, struct buffer *out) {
    struct span name = json_member(params, "name"), arguments = json_member(params, "arguments");
    struct span text = json_member(arguments, "text"), bytes = json_member(arguments, "bytes");
    buffer_text(out, "\"result\":{\"content\":[{\"type\":\"text\",\"text\":");
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

/* Append the answer to one message. False: it needs none (a notification, an answer, no JSON). */
static inline bool answer_message(const char *line, size_t size, struct buffer *out) {
    struct span message = json_parse(line, size);
    struct span id = json_member(message, "id"), method = json_member(message, "method");
    struct span params = json_member(message, "params");
    if (!id.at || !method.at)
        return false;
    buffer_text(out, "{\"jsonrpc\":\"2.0\",\"id\":");
    buffer_add(out, id.at, id.size);
    buffer_text(out, ",");
    if (json_is_string(method, "tools/call")) {
        answer_call(params, out);
    } else if (json_is_string(method, "initialize")) {
        struct span version = json_member(params, "protocolVersion");
        buffer_text(out, "\"result\":{\"protocolVersion\":");
        if (version.at)
            buffer_add(out, version.at, version.size);
        else
            buffer_text(out, "\"2025-11-25\"");
        buffer_text(out, ",\"capabilities\":{\"tools\":{}},\"serverInfo\":{\"name\":\"bench\",\"version\":\"1\"}}}");
    } else if (json_is_string(method, "tools/list")) {
        buffer_text(out, "\"result\":");
        buffer_text(out, TOOLS);
        buffer_text(out, "}");
    } else if (json_is_string(method, "ping")) {
        buffer_text(out, "\"result\":{}}");
    } else {
        buffer_text(out, "\"error\":{\"code\":-32601,\"message\":\"Method not found\"}}");
    }
    return true;
}

#endif

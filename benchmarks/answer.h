/* What a small MCP server answers, for child.c (over pipes) and answer.c (over HTTP).
 *
 * Source: MCP 2025-11-25, lifecycle and tools; MCP 2026-07-28, basic and server/discover. Tools: `echo` {text}
 * answers the text; `blob` {bytes, seed} a text of that size out of the pattern (content.h); `digest` {text} the
 * length of the text and its sums. `progress` {text, count}, `sleep` {text, ms} and `crash` are echoes here; what
 * they do besides is child.c's. Ids and texts cross as raw bytes. A request is modern that names its version in
 * `_meta`.
 */
#ifndef BENCH_ANSWER_H
#define BENCH_ANSWER_H

#include "buffer.h"
#include "content.h"
#include "json.h"

#define BLOB_MAX (64u << 20)
#define PREFIX "io.modelcontextprotocol/"
#define LEGACY_VERSION "2025-11-25"
#define MODERN_VERSION "2026-07-28"
#define SERVER "{\"name\":\"bench\",\"version\":\"1\"}"

/* What a server takes: one that is modern only refuses whatever is not, `initialize` first of all. */
enum eras { BOTH, LEGACY, MODERN };

#define OBJECT(members) "\"inputSchema\":{\"type\":\"object\",\"properties\":{" members "}}}"
#define MEMBER(name, type) "\"" name "\":{\"type\":\"" type "\"}"
#define TOOL(name, about, members) "{\"name\":\"" name "\",\"description\":\"" about "\"," OBJECT(members)
#define TEXT MEMBER("text", "string")
#define TOOLS                                                                                                  \
    "\"tools\":[" TOOL("echo", "Answer the text.", TEXT) ","                                                   \
    TOOL("blob", "Answer many bytes.", MEMBER("bytes", "integer") "," MEMBER("seed", "integer")) ","           \
    TOOL("digest", "Answer the length and the sums of the text.", TEXT) ","                                    \
    TOOL("progress", "Report progress, then answer the text.", TEXT "," MEMBER("count", "integer")) ","        \
    TOOL("sleep", "Answer the text after some time.", TEXT "," MEMBER("ms", "integer")) ","                    \
    TOOL("crash", "Exit at once.", "") "]"

/* A request, as far as anybody looks into it; what it does not have is empty. */
struct request {
    struct span id, method, params, name, arguments;
};

/* False: the line needs no answer (a notification, an answer, no JSON). */
static inline bool request_parse(const char *line, size_t size, struct request *r) {
    struct span message = json_parse(line, size);
    r->id = json_member(message, "id");
    r->method = json_member(message, "method");
    r->params = json_member(message, "params");
    if (!r->id.at || !r->method.at)
        return false;
    bool call = json_is_string(r->method, "tools/call");
    r->name = call ? json_member(r->params, "name") : (struct span){NULL, 0};
    r->arguments = call ? json_member(r->params, "arguments") : (struct span){NULL, 0};
    return true;
}

/* An argument that is a number; `otherwise` where there is none. */
static inline size_t request_number(const struct request *r, const char *name, size_t otherwise) {
    struct span value = json_member(r->arguments, name);
    return value.at && *value.at >= '0' && *value.at <= '9' ? strtoul(value.at, NULL, 10) : otherwise;
}

/* Bytes of the pattern that belong into an answer: who writes it need not hold them. */
struct hole {
    size_t at, size, offset;
};

static inline void hole_fill(struct buffer *out, struct hole hole) {
    if (!hole.size)
        return;
    char *at = buffer_room(out, hole.size) - out->size + hole.at;
    memmove(at + hole.size, at, out->size - hole.at);
    pattern_copy(at, hole.offset, hole.size);
    out->size += hole.size;
}

static inline bool answers_text(struct span name) {
    return json_is_string(name, "echo") || json_is_string(name, "progress") || json_is_string(name, "sleep");
}

static inline void answer_call(const struct request *r, struct buffer *out, struct hole *hole) {
    struct span text = json_member(r->arguments, "text");
    bool has_text = text.at && *text.at == '"';
    buffer_text(out, "\"content\":[{\"type\":\"text\",\"text\":");
    if (has_text && answers_text(r->name)) {
        buffer_add(out, text.at, text.size);
        buffer_text(out, "}]}}");
    } else if (has_text && json_is_string(r->name, "digest")) {
        struct sums sums = {0, 0};
        sums_add(&sums, text.at + 1, text.size - 2);
        buffer_text(out, "\"");
        out->size += digest_format(buffer_room(out, DIGEST_SIZE), text.size - 2, sums);
        buffer_text(out, "\"}]}}");
    } else if (json_is_string(r->name, "blob") && json_member(r->arguments, "bytes").at) {
        size_t size = request_number(r, "bytes", 0);
        buffer_text(out, "\"");
        *hole = (struct hole){out->size, size > BLOB_MAX ? BLOB_MAX : size, request_number(r, "seed", 0) * 8};
        buffer_text(out, "\"}]}}");
    } else {
        buffer_text(out, "\"no such tool\"}],\"isError\":true}}");
    }
}

#define CACHE ",\"ttlMs\":0,\"cacheScope\":\"public\""

/* Open a result; that it is complete is said in the modern era only. */
static inline void answer_result(bool modern, struct buffer *out) {
    buffer_text(out, modern ? "\"result\":{\"resultType\":\"complete\"," : "\"result\":{");
}

/* Append the answer to a request; `hole` tells what is missing in it. */
static inline void answer_request(enum eras eras, const struct request *r, struct buffer *out, struct hole *hole) {
    struct span method = r->method;
    *hole = (struct hole){0, 0, 0};
    buffer_text(out, "{\"jsonrpc\":\"2.0\",\"id\":");
    buffer_add(out, r->id.at, r->id.size);
    buffer_text(out, ",");
    bool modern = eras != LEGACY && json_member(json_member(r->params, "_meta"), PREFIX "protocolVersion").at;
    struct span version = json_member(r->params, "protocolVersion");
    if (!version.at)
        version = (struct span){"\"" LEGACY_VERSION "\"", sizeof LEGACY_VERSION + 1};
    if (eras == MODERN && !modern) {
        buffer_text(out, "\"error\":{\"code\":-32022,\"message\":\"Unsupported protocol version\",\"data\":"
                         "{\"supported\":[\"" MODERN_VERSION "\"],\"requested\":");
        buffer_add(out, version.at, version.size);
        buffer_text(out, "}}}");
    } else if (json_is_string(method, "tools/call")) {
        answer_result(modern, out);
        answer_call(r, out, hole);
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
}

#endif

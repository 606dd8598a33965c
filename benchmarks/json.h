/* The least JSON that the benchmark programs need: find a member, an element, compare a string.
 *
 * Nothing is copied or unescaped: a value is the span of bytes it was read from. Malformed input
 * gives an empty span, never a read past the end. Nesting is bounded by JSON_DEPTH.
 */
#ifndef BENCH_JSON_H
#define BENCH_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define JSON_DEPTH 32

struct span {
    const char *at; /* NULL: no such value */
    size_t size;
};

static const char *json_space(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p;
}

/* The last long string that was read: a large message is searched for several members, and should be read once. */
#define JSON_LONG 4096
static struct {
    const char *from, *to;
} json_long;

/* The end of the string that opens at p, or NULL. Searches for the quote, so that 16 MiB of plain
 * text cost one memchr; a quote behind an odd number of backslashes does not close. */
static const char *json_string_end(const char *p, const char *end) {
    if (p == json_long.from && json_long.to <= end)
        return json_long.to;
    for (const char *q = p + 1; q < end; q++) {
        q = memchr(q, '"', (size_t)(end - q));
        if (!q)
            return NULL;
        const char *b = q;
        while (b > p + 1 && b[-1] == '\\')
            b--;
        if ((q - b) % 2 == 0) {
            if (q - p > JSON_LONG)
                json_long.from = p, json_long.to = q + 1;
            return q + 1;
        }
    }
    return NULL;
}

static const char *json_value_end(const char *p, const char *end, int depth) {
    if (p >= end || depth > JSON_DEPTH)
        return NULL;
    if (*p == '"')
        return json_string_end(p, end);
    if (*p != '{' && *p != '[') {
        const char *q = p;
        while (q < end && strchr("+-.0123456789abcdefghijklmnopqrstuvwxyzE", *q) && *q)
            q++;
        return q > p ? q : NULL;
    }
    char close = *p == '{' ? '}' : ']';
    bool object = close == '}';
    p = json_space(p + 1, end);
    if (p < end && *p == close)
        return p + 1;
    while (p < end) {
        if (object) {
            if (*p != '"' || !(p = json_string_end(p, end)))
                return NULL;
            p = json_space(p, end);
            if (p >= end || *p != ':')
                return NULL;
            p = json_space(p + 1, end);
        }
        p = json_value_end(p, end, depth + 1);
        if (!p)
            return NULL;
        p = json_space(p, end);
        if (p < end && *p == close)
            return p + 1;
        if (p >= end || *p != ',')
            return NULL;
        p = json_space(p + 1, end);
    }
    return NULL;
}

/* The one value that the bytes hold, or nothing where anything but space stands beside it. Every message is given to
 * it before its members are looked for: what is remembered of the one before must not outlive it. */
static inline struct span json_parse(const char *data, size_t size) {
    json_long.from = NULL;
    const char *end = data + size, *p = json_space(data, end);
    const char *q = json_value_end(p, end, 0);
    if (!q || json_space(q, end) != end)
        return (struct span){NULL, 0};
    return (struct span){p, (size_t)(q - p)};
}

/* The value of a member of an object. The last of equal names would need a rule; the first is taken. */
static inline struct span json_member(struct span object, const char *name) {
    struct span none = {NULL, 0};
    if (!object.at || *object.at != '{')
        return none;
    size_t length = strlen(name);
    const char *end = object.at + object.size, *p = json_space(object.at + 1, end);
    while (p < end && *p == '"') {
        const char *key = p + 1, *key_end = json_string_end(p, end);
        if (!key_end)
            return none;
        p = json_space(key_end, end);
        p = json_space(p + 1, end);
        const char *value_end = json_value_end(p, end, 1);
        if (!value_end)
            return none;
        if ((size_t)(key_end - 1 - key) == length && !memcmp(key, name, length))
            return (struct span){p, (size_t)(value_end - p)};
        p = json_space(value_end, end);
        if (p < end && *p == ',')
            p = json_space(p + 1, end);
    }
    return none;
}

/* The first element of an array. */
static inline struct span json_first(struct span array) {
    struct span none = {NULL, 0};
    if (!array.at || *array.at != '[')
        return none;
    const char *end = array.at + array.size, *p = json_space(array.at + 1, end);
    const char *q = json_value_end(p, end, 1);
    return q ? (struct span){p, (size_t)(q - p)} : none;
}

/* Whether the bytes of the value are exactly these (a string with its quotes). */
static inline bool json_is(struct span value, const char *text, size_t size) {
    return value.at && value.size == size && !memcmp(value.at, text, size);
}

static inline bool json_is_string(struct span value, const char *text) {
    size_t size = strlen(text);
    return value.at && value.size == size + 2 && *value.at == '"' && !memcmp(value.at + 1, text, size);
}

#endif

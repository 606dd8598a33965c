/* Bytes that grow: what the benchmark programs read into and write from. */
#ifndef BENCH_BUFFER_H
#define BENCH_BUFFER_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct buffer {
    char *data;
    size_t size, room;
};

/* Make room for `more` bytes; out of memory ends the program: a benchmark has nothing better to do. */
static inline char *buffer_room(struct buffer *b, size_t more) {
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

static inline void buffer_add(struct buffer *b, const char *data, size_t size) {
    if (size) /* else there may be no data at all */
        memcpy(buffer_room(b, size), data, size);
    b->size += size;
}

static inline void buffer_text(struct buffer *b, const char *text) { buffer_add(b, text, strlen(text)); }

static inline void buffer_format(struct buffer *b, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    buffer_text(b, text);
}

#endif

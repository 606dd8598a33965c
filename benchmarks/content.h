/* What large messages are made of, and how they are checked at the speed of memory.
 *
 * The pattern is 65,528 letters, digits, `-` and `_` that look random, repeated; nothing in it needs an escape.
 * A large text is a piece of it that begins at 8 * seed: a byte changed, a chunk lost, doubled, moved or taken
 * from another answer shows. Its length in words is a prime, so no chunk of a usual size hides behind it.
 * child.py and loader.py make the same pattern and the same sums.
 */
#ifndef BENCH_CONTENT_H
#define BENCH_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define PATTERN_WORDS 8191u
#define PATTERN_SIZE ((size_t)PATTERN_WORDS * 8)

/* The pattern, made when it is first needed: a child without large messages does not pay for it. */
static const char *pattern(void) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    static char made[PATTERN_SIZE];
    if (!made[0])
        for (uint32_t i = 0, x = 1; i < PATTERN_SIZE; i++) {
            x = (x * 1103515245u + 12345u) & 0x7fffffffu;
            made[i] = letters[x >> 16 & 63];
        }
    return made;
}

/* The longest piece that lies in one stretch: its start, and in `size` how many bytes, at most as many as were asked. */
static inline const char *pattern_piece(size_t offset, size_t *size) {
    size_t at = offset % PATTERN_SIZE;
    if (*size > PATTERN_SIZE - at)
        *size = PATTERN_SIZE - at;
    return pattern() + at;
}

static inline void pattern_copy(char *to, size_t offset, size_t size) {
    for (size_t done = 0, piece; done < size; done += piece) {
        piece = size - done;
        const char *from = pattern_piece(offset + done, &piece);
        memcpy(to + done, from, piece);
    }
}

static inline bool pattern_is(const char *data, size_t offset, size_t size) {
    for (size_t done = 0, piece; done < size; done += piece) {
        piece = size - done;
        const char *from = pattern_piece(offset + done, &piece);
        if (memcmp(data + done, from, piece))
            return false;
    }
    return true;
}

/* Fletcher's sums over words of 64 bits, little endian, the last one filled up with zeros: two additions for eight
 * bytes, and the second sum knows the order. */
struct sums {
    uint64_t first, second;
};

/* Add a piece; only the last one may end within a word. */
static inline void sums_add(struct sums *sums, const char *data, size_t size) {
    uint64_t word, first = sums->first, second = sums->second;
    for (; size >= sizeof word; data += sizeof word, size -= sizeof word) {
        memcpy(&word, data, sizeof word);
        second += first += word;
    }
    if (size) {
        word = 0;
        memcpy(&word, data, size);
        second += first += word;
    }
    *sums = (struct sums){first, second};
}

#define DIGEST_SIZE 64

/* What `digest` answers: the length and the sums. */
static inline size_t digest_format(char *to, size_t length, struct sums sums) {
    return (size_t)snprintf(to, DIGEST_SIZE, "%zu %016llx %016llx", length, (unsigned long long)sums.first,
                            (unsigned long long)sums.second);
}

#endif

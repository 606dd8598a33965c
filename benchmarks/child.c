/* A small, fast stdio MCP server: the child behind every subject of the benchmark.
 *
 * It costs a few microseconds a call, so that what is measured is the bridge in front of it. All
 * lines of one read are answered by one write. It ends at EOF, as MCP 2025-11-25 (lifecycle,
 * "Shutdown") asks. The first argument is the era that it speaks: `legacy` or `modern`; else both.
 * Others are ignored; the benchmark passes a tag, to count what is left behind.
 */
#include <errno.h>
#include <unistd.h>

#include "answer.h"

static void write_all(struct buffer *out) {
    size_t done = 0;
    while (done < out->size) {
        ssize_t n = write(STDOUT_FILENO, out->data + done, out->size - done);
        if (n < 0 && errno != EINTR)
            exit(1);
        done += n > 0 ? (size_t)n : 0;
    }
    out->size = 0;
}

static enum eras read_eras(const char *word) {
    return !strcmp(word, "legacy") ? LEGACY : !strcmp(word, "modern") ? MODERN : BOTH;
}

int main(int argc, char **argv) {
    enum eras eras = read_eras(argc > 1 ? argv[1] : "");
    struct buffer in = {0}, out = {0};
    size_t searched = 0; /* where the next search for a newline starts */
    for (;;) {
        ssize_t n = read(STDIN_FILENO, buffer_room(&in, 65536), 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0;
        in.size += (size_t)n;
        size_t start = 0;
        for (char *end; (end = memchr(in.data + searched, '\n', in.size - searched));) {
            size_t stop = (size_t)(end - in.data);
            if (answer_message(eras, in.data + start, stop - start, &out))
                buffer_text(&out, "\n");
            start = searched = stop + 1;
        }
        memmove(in.data, in.data + start, in.size - start);
        in.size -= start;
        searched = in.size;
        write_all(&out);
    }
}

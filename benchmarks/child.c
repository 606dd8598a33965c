/* A small, fast stdio MCP server: the child behind every subject of the benchmark.
 *
 * It costs a few microseconds a call, so that what is measured is the bridge in front of it. All
 * lines of one read are answered by one write; a large result is written out of the pattern and never held. It
 * ends at EOF, as MCP 2025-11-25 (lifecycle, "Shutdown") asks.
 *
 * The first argument is the era that it speaks: `legacy` or `modern`; else both. Besides:
 *   --stay-on-eof     stay when the input ends (for STAY_SECONDS, so that nothing is left for ever)
 *   --ignore-sigterm  ignore SIGTERM, the process of its own as well
 *   --grandchild      start a process of its own, which reads nothing and holds the pipes
 * Other arguments are ignored; the benchmark passes a tag, to count what is left behind.
 */
#include <errno.h>
#include <signal.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"

#define STAY_SECONDS 1800
#define CRASH_STATUS 70
#define SLEEP_MAX_MS 60000u
#define PROGRESS_MAX 1000u
#define PIECES 16 /* of the pattern that go into one write */

static void write_bytes(const char *data, size_t size) {
    while (size) {
        ssize_t n = write(STDOUT_FILENO, data, size);
        if (n < 0 && errno != EINTR)
            exit(1);
        data += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
}

static void write_all(struct buffer *out) {
    write_bytes(out->data, out->size);
    out->size = 0;
}

static void write_pattern(size_t offset, size_t size) {
    while (size) {
        struct iovec pieces[PIECES];
        int count = 0;
        for (size_t planned = 0; count < PIECES && planned < size; count++) {
            pieces[count].iov_len = size - planned;
            pieces[count].iov_base = (char *)(uintptr_t)pattern_piece(offset + planned, &pieces[count].iov_len);
            planned += pieces[count].iov_len;
        }
        ssize_t n = writev(STDOUT_FILENO, pieces, count);
        if (n < 0 && errno != EINTR)
            exit(1);
        offset += n > 0 ? (size_t)n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
}

/* Append a notification that belongs to the request: with its token, or a line for the log without one. */
static void add_notification(const struct request *r, size_t number, struct buffer *out) {
    struct span token = json_member(json_member(r->params, "_meta"), "progressToken");
    if (token.at) {
        buffer_text(out, "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":");
        buffer_add(out, token.at, token.size);
        buffer_format(out, ",\"progress\":%zu}}\n", number);
    } else {
        buffer_text(out, "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",");
        buffer_format(out, "\"data\":%zu}}\n", number);
    }
}

/* What some tools do before they answer. What was answered before is not to wait for it, or to be lost. */
static void act(const struct request *r, struct buffer *out) {
    if (json_is_string(r->name, "progress")) {
        size_t count = request_number(r, "count", 1);
        for (size_t i = 1; i <= count && i <= PROGRESS_MAX; i++)
            add_notification(r, i, out);
    } else if (json_is_string(r->name, "sleep")) {
        size_t ms = request_number(r, "ms", 0);
        ms = ms > SLEEP_MAX_MS ? SLEEP_MAX_MS : ms;
        write_all(out);
        struct timespec time = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
        nanosleep(&time, NULL);
    } else if (json_is_string(r->name, "crash")) {
        write_all(out);
        _exit(CRASH_STATUS);
    }
}

static void take_line(enum eras eras, const char *line, size_t size, struct buffer *out) {
    struct request request;
    struct hole hole;
    if (!request_parse(line, size, &request))
        return;
    act(&request, out);
    answer_request(eras, &request, out, &hole);
    buffer_text(out, "\n");
    if (hole.size <= PATTERN_SIZE) {
        hole_fill(out, hole);
    } else {
        write_bytes(out->data, hole.at);
        write_pattern(hole.offset, hole.size);
        write_bytes(out->data + hole.at, out->size - hole.at);
        out->size = 0;
    }
}

/* The process of its own lives for a bounded time too. */
static void start_another(void) {
    if (fork())
        return;
    alarm(STAY_SECONDS);
    for (;;)
        pause();
}

static bool has_option(char **argv, const char *name) {
    while (*argv && strcmp(*argv, name))
        argv++;
    return *argv;
}

static enum eras read_eras(const char *word) {
    return !strcmp(word, "legacy") ? LEGACY : !strcmp(word, "modern") ? MODERN : BOTH;
}

static int end_of_input(bool stay) {
    if (stay) {
        alarm(STAY_SECONDS);
        for (;;)
            pause();
    }
    return 0;
}

int main(int argc, char **argv) {
    enum eras eras = read_eras(argc > 1 ? argv[1] : "");
    struct buffer in = {0}, out = {0};
    size_t searched = 0; /* where the next search for a newline starts */
    if (has_option(argv, "--ignore-sigterm"))
        signal(SIGTERM, SIG_IGN);
    if (has_option(argv, "--grandchild"))
        start_another();
    for (;;) {
        ssize_t n = read(STDIN_FILENO, buffer_room(&in, 65536), 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? 1 : end_of_input(has_option(argv, "--stay-on-eof"));
        in.size += (size_t)n;
        size_t start = 0;
        for (char *end; (end = memchr(in.data + searched, '\n', in.size - searched));) {
            size_t stop = (size_t)(end - in.data);
            take_line(eras, in.data + start, stop - start, &out);
            start = searched = stop + 1;
        }
        memmove(in.data, in.data + start, in.size - start);
        in.size -= start;
        searched = in.size;
        write_all(&out);
    }
}

/* The load generator: many MCP clients over keep-alive HTTP/1.1, in one thread over epoll.
 *
 * It checks the id and the content of every answer, large ones byte by byte. A call counts only when both are
 * right; an answer that is somebody else's counts as `wrong`, everything else that fails as an error. A latency ends
 * when the last byte is there: checking it is not the subject's time. It talks to the loopback interface only and is
 * bounded in time and count. loader.py is the same program for machines without a compiler or epoll: same arguments,
 * same output (one JSON line; with --until-eof one more, when the load begins).
 *
 * Source of the exchange: MCP 2025-11-25, basic/transports, "Streamable HTTP"; in the modern era, which
 * knows no sessions, MCP 2026-07-28, basic/transports/streamable-http.
 */
#include <poll.h>

#include "load_exchange.h"

#define OPENING_MAX 8 /* sessions opened at the same time: a storm of starts is not what is measured */

static struct connection connections[CONNECTIONS_MAX];
static struct session sessions[SESSIONS_MAX];
static int queue, open_sessions, next_opening, next_closing, turn;
static double phase_began, measure_began, measured, cpu_began, cpu_spent = -1;
static double due, last_due = 1e18; /* of paced calls */
static bool starved; /* a paced call fell due when no connection was free */
static long calls, errors, wrong;
static float *latencies; /* microseconds, one per counted call */

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

/* ---- what happens when */

static void enter(enum phase next) {
    if (next == MEASURE) {
        cpu_began = cpu_seconds();
        measure_began = now;
    }
    if (phase == MEASURE) {
        double cpu = cpu_seconds();
        cpu_spent = cpu < 0 ? -1 : cpu - cpu_began;
        measured = now - phase_began;
        last_due = phase_began + options.seconds;
    }
    phase = next;
    phase_began = now;
}

/* Before its time: no call is made any more. */
static void finish(void) {
    if (phase == WARMUP || phase == MEASURE) {
        enter(DRAIN);
        last_due = 0;
    }
}

/* Calls begin and end with our input where somebody else says how long they are wanted. */
static void watch_input(void) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(queue, EPOLL_CTL_ADD, STDIN_FILENO, &event))
        fail("stdin is no pipe");
    printf("{\"running\": true}\n");
    fflush(stdout);
}

static void read_input(void) {
    char ignored[4096];
    if (read(STDIN_FILENO, ignored, sizeof ignored) > 0)
        return;
    epoll_ctl(queue, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
    finish();
}

static void start_load(void) {
    if (options.until_eof)
        watch_input();
    enter(options.warmup > 0 ? WARMUP : MEASURE);
    due = now;
    for (int i = 0; i < options.connections; i++) {
        struct connection *c = &connections[i];
        c->session = &sessions[options.mode == CALLS ? i % options.sessions : i];
        c->began = now;
        if (!options.every)
            ask(c, options.mode == CALLS ? CALL : OPEN);
    }
}

static struct connection *free_connection(void) {
    for (int i = 0; i < options.connections; i++) {
        struct connection *c = &connections[(turn + i) % options.connections];
        if (!c->busy) {
            turn = c->index + 1;
            return c;
        }
    }
    return NULL;
}

/* Make the calls that have fallen due, whether or not earlier ones are answered: a subject that stands still for a
 * second has that second counted by every call that fell into it, to the last one. When we are late ourselves, it is not the subject's
 * time: only a call that had to wait for a free connection is counted from when it was due. */
static void pace(void) {
    while (now >= due && due < last_due) {
        struct connection *c = free_connection();
        if (!c) {
            starved = true;
            return;
        }
        ask(c, CALL);
        if (starved)
            c->asked = due;
        due += options.every;
    }
    starved = false;
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

/* A paced call counts by when it was made: the slowest are those that are answered last. */
static void count(double since) {
    bool counts = phase == MEASURE || (options.every && phase == DRAIN && since >= measure_began);
    if (counts && calls < options.count)
        latencies[calls++] = (float)((now - since) * 1e6);
}

/* A subject that takes longer than the measured time for one call has the time for it. */
static void tick(void) {
    if (phase == WARMUP && now - phase_began >= options.warmup)
        enter(MEASURE);
    else if (phase == MEASURE && calls >= options.count)
        finish();
    else if (phase == MEASURE && now - phase_began >= options.seconds && calls + errors + wrong)
        enter(DRAIN);
}

/* Open the next session. Without sessions a first call does what opening one does: it starts the child. */
static void open_next(struct connection *c) {
    c->session = &sessions[next_opening++];
    ask(c, options.modern ? CALL : OPEN);
}

static void opened(struct connection *c) {
    if (++open_sessions == options.sessions)
        options.mode == HOLD ? hold() : start_load();
    else if (next_opening < options.sessions)
        open_next(c);
}

static void forget_session(struct connection *c) {
    *c->session = (struct session){.last_id = 0};
    c->began = now;
}

/* One step of a session is done: what this connection does next. */
static void proceed(struct connection *c) {
    if (phase == ENDING)
        return;
    if (c->step == OPEN)
        return ask(c, READY);
    if (phase == SETUP) {
        if (options.mode == HOLD && c->step == READY)
            return ask(c, CALL);
        opened(c);
    } else if (options.mode == CALLS) {
        count(c->asked);
        if (phase != DRAIN && !options.every)
            ask(c, CALL);
    } else if (options.mode == CYCLES) {
        if (c->step == READY || (c->step == CALL && c->session->name[0]))
            return ask(c, c->step + 1);
        count(c->began);
        forget_session(c);
        if (phase != DRAIN)
            ask(c, OPEN);
    }
}

static void stumble(struct connection *c, enum verdict verdict) {
    if (verdict == WRONG)
        wrong++;
    else
        errors++;
    if (phase == SETUP)
        fail("could not open the sessions");
    if (errors + wrong >= options.give_up)
        finish();
    if (options.mode == CYCLES)
        forget_session(c);
    if (phase < DRAIN && !options.every)
        ask(c, options.mode == CALLS ? CALL : OPEN);
}

static void receive(struct connection *c) {
    struct span body = {NULL, 0};
    bool busy = c->busy;
    int done = client_receive(&c->http, busy, &body);
    if (!done)
        return;
    if (done < 0) {
        disconnect(c);
        if (busy) {
            note("the connection broke", c->http.status, "", 0);
            stumble(c, FAILED);
        }
        return;
    }
    c->busy = false;
    enum verdict verdict = judge(c, body);
    if (verdict != RIGHT)
        note(verdict == WRONG ? "wrong answer" : "error", c->http.status, body.at, body.size);
    if (c->http.last || c->http.waits) /* an answer to half a request: the rest of it would have to follow */
        disconnect(c);
    if (verdict == RIGHT)
        proceed(c);
    else
        stumble(c, verdict);
}

static void expire(void) {
    for (int i = 0; i < options.connections; i++) {
        struct connection *c = &connections[i];
        if (c->busy && now - c->asked > options.timeout) {
            disconnect(c);
            note("no answer in time", c->http.status, "", 0);
            stumble(c, FAILED);
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

static void start(void) {
    now = clock_now();
    for (int i = 0; i < options.connections; i++) {
        connections[i].http = (struct client){.fd = -1, .queue = queue, .owner = &connections[i]};
        connections[i].index = i;
    }
    if (options.constant || options.mode == CYCLES)
        return start_load();
    int at_once = options.mode == HOLD ? 1 : OPENING_MAX;
    for (int i = 0; i < at_once && i < options.sessions; i++)
        open_next(&connections[i]);
}

/* Wait for what comes, until the next paced call is due. */
static int wait_events(struct epoll_event *events, int most) {
    double left = due - now;
    if (options.every && !starved && due < last_due && phase != SETUP && left < 0.05) {
        struct pollfd any = {.fd = queue, .events = POLLIN};
        struct timespec time = {0, left > 0 ? (long)(left * 1e9) : 0};
        ppoll(&any, 1, &time, NULL);
        return epoll_wait(queue, events, most, 0);
    }
    return epoll_wait(queue, events, most, 50);
}

static void run(void) {
    start();
    for (double checked = now;;) {
        struct epoll_event events[256];
        int n = wait_events(events, 256);
        now = clock_now();
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                read_input();
                continue;
            }
            if (c->http.fd >= 0 && events[i].events & EPOLLOUT)
                client_push(&c->http);
            if (c->http.fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                now = clock_now();
                receive(c);
            }
        }
        tick();
        if (options.every && phase != SETUP)
            pace();
        if (now - checked > 0.5) {
            checked = now;
            expire();
        }
        if (phase == DRAIN && !any_busy() && !(options.every && due < last_due))
            enter(ENDING);
        if (phase == ENDING && !any_busy() && !close_next())
            return;
    }
}

/* ---- what was measured */

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* What a call carries: the large text, or the small one both ways. */
static double bytes_per_call(void) {
    size_t bytes = options.result_bytes ? options.result_bytes : options.argument_bytes;
    return (double)(bytes ? bytes : 2 * options.text_bytes);
}

static void report(void) {
    qsort(latencies, (size_t)calls, sizeof *latencies, by_size);
    double p50 = calls ? latencies[calls / 2] : 0, p99 = calls ? latencies[calls * 99 / 100] : 0;
    double rps = measured > 0 ? (double)calls / measured : 0;
    printf("{\"calls\": %ld, \"seconds\": %.6f, \"rps\": %.1f, \"bytes_per_second\": %.0f, ", calls, measured, rps,
           rps * bytes_per_call());
    printf("\"p50_us\": %.2f, \"p99_us\": %.2f, \"max_us\": %.2f, ", p50, p99, calls ? latencies[calls - 1] : 0);
    printf("\"errors\": %ld, \"wrong\": %ld, ", errors, wrong);
    if (cpu_spent >= 0)
        printf("\"cpu_seconds\": %.3f, ", cpu_spent);
    else
        printf("\"cpu_seconds\": null, ");
    printf("\"first_error\": \"%s\"}\n", first_error);
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

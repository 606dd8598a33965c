/* The command line of the load generator. */
#ifndef BENCH_LOAD_OPTIONS_H
#define BENCH_LOAD_OPTIONS_H

#include <getopt.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"

#define CONNECTIONS_MAX 1024
#define SESSIONS_MAX 10000
#define SECONDS_MAX 120.0
#define COUNT_MAX 4000000L
#define PIDS_MAX 16
#define PREFIX_SIZE 32 /* of a large argument: what makes it one of its kind */

enum mode { CALLS, CYCLES, HOLD };

/* Times are in seconds.
 *
 *   --every-us N      a call falls due so often, on whichever connection is free, whatever became of those before
 *   --until-eof       say when the load begins, and end with our input
 *   --give-up N       end after so many errors
 *   --progress        call the tool that reports progress, so that answers must be streams
 *   --constant TEXT   the server gives this answer to everything, and knows no sessions
 *   --pid N           whose CPU time is to be told
 */
static struct {
    enum mode mode;
    int port, connections, sessions, pids[PIDS_MAX], pid_count, cpu;
    char path[200];
    bool modern, progress, until_eof;
    const char *constant;
    double seconds, warmup, every, timeout;
    long count, give_up;
    size_t text_bytes, result_bytes, argument_bytes;
} options = {.connections = 1, .sessions = 1, .cpu = -1, .seconds = 3, .timeout = 30, .count = COUNT_MAX,
             .give_up = COUNT_MAX, .text_bytes = 32};

static void refuse(const char *what) {
    fprintf(stderr, "load: %s\n", what);
    exit(1);
}

static long number(const char *text, long least, long most) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || value < least || value > most)
        refuse("a number is out of range");
    return value;
}

static double seconds(const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (*end || !(value >= 0 && value <= SECONDS_MAX))
        refuse("a time is out of range");
    return value;
}

static void set_option(int o) {
    if (o == 'm')
        options.mode = !strcmp(optarg, "cycles") ? CYCLES : !strcmp(optarg, "hold") ? HOLD : CALLS;
    else if (o == 'e')
        options.modern = !strcmp(optarg, "modern");
    else if (o == 'u' && sscanf(optarg, "http://127.0.0.1:%d%199s", &options.port, options.path) != 2)
        refuse("the URL is not http://127.0.0.1:PORT/PATH");
    else if (o == 'c')
        options.connections = (int)number(optarg, 1, CONNECTIONS_MAX);
    else if (o == 's')
        options.sessions = (int)number(optarg, 1, SESSIONS_MAX);
    else if (o == 't')
        options.seconds = seconds(optarg);
    else if (o == 'w')
        options.warmup = seconds(optarg);
    else if (o == 'o')
        options.timeout = seconds(optarg);
    else if (o == 'n')
        options.count = number(optarg, 1, COUNT_MAX);
    else if (o == 'g')
        options.give_up = number(optarg, 1, COUNT_MAX);
    else if (o == 'v')
        options.every = (double)number(optarg, 1, 10000000) / 1e6;
    else if (o == 'x')
        options.text_bytes = (size_t)number(optarg, 0, BLOB_MAX);
    else if (o == 'b')
        options.result_bytes = (size_t)number(optarg, 0, BLOB_MAX);
    else if (o == 'r')
        options.argument_bytes = (size_t)number(optarg, 0, BLOB_MAX);
    else if (o == 'k')
        options.constant = optarg;
    else if (o == 'a')
        options.cpu = (int)number(optarg, 0, CPU_SETSIZE - 1);
    else if (o == 'P')
        options.progress = true;
    else if (o == 'E')
        options.until_eof = true;
    else if (o == 'p' && options.pid_count < PIDS_MAX)
        options.pids[options.pid_count++] = (int)number(optarg, 1, INT32_MAX);
    else if (o == '?')
        exit(2);
}

static void parse(int argc, char **argv) {
    static const struct option names[] = {
        {"mode", 1, 0, 'm'},         {"url", 1, 0, 'u'},           {"connections", 1, 0, 'c'},
        {"sessions", 1, 0, 's'},     {"seconds", 1, 0, 't'},       {"warmup", 1, 0, 'w'},
        {"timeout", 1, 0, 'o'},      {"count", 1, 0, 'n'},         {"give-up", 1, 0, 'g'},
        {"every-us", 1, 0, 'v'},     {"text-bytes", 1, 0, 'x'},    {"result-bytes", 1, 0, 'b'},
        {"argument-bytes", 1, 0, 'r'}, {"constant", 1, 0, 'k'},    {"pid", 1, 0, 'p'},
        {"cpu", 1, 0, 'a'},          {"era", 1, 0, 'e'},           {"progress", 0, 0, 'P'},
        {"until-eof", 0, 0, 'E'},    {0}};
    for (int o; (o = getopt_long(argc, argv, "", names, NULL)) != -1;)
        set_option(o);
    if (!options.port)
        refuse("no --url");
    if (options.mode == CALLS && options.sessions > options.connections)
        refuse("more sessions than connections");
    if (options.mode != CALLS && (options.modern || options.every || options.until_eof))
        refuse("--era modern, --every-us and --until-eof are for --mode calls");
    if (options.result_bytes && options.argument_bytes)
        refuse("--result-bytes and --argument-bytes exclude each other");
    if (options.argument_bytes && options.argument_bytes < 2 * PREFIX_SIZE)
        refuse("--argument-bytes is too small");
    if (options.mode == HOLD)
        options.connections = 1;
    if (options.mode == CYCLES)
        options.sessions = options.connections;
}

#endif

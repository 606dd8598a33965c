/* A sampling profiler for one thread of CPython 3.11 to 3.13 on Linux; launch.py loads it.
 *
 * Each time the thread has used so much CPU, in user mode or in the kernel, it is interrupted and notes where it
 * is: the instruction, whether the kernel was at work for it, and the stack of Python frames. As the thread itself
 * reads its own frames, nothing moves meanwhile, and as its CPU time is the clock, neither waiting nor what else
 * the machine does is counted. A profiler in another process has neither.
 *
 * The frames are noted as addresses: launch.py gives them names when all is over. */

#define _GNU_SOURCE
#define Py_BUILD_CORE
#include <Python.h>
#include <internal/pycore_frame.h>
#include <internal/pycore_interp.h>

#include <fcntl.h>
#include <linux/perf_event.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define DEPTH 48 /* of the Python stack; what is further out does not change */

struct frame {
    uint64_t code;
    int64_t offset; /* in bytes, of the instruction */
};

struct sample {
    uint64_t pc;
    uint64_t time_ns; /* CLOCK_MONOTONIC */
    uint32_t in_kernel;
    uint32_t in_collector; /* of garbage */
    uint32_t depth;
    struct frame frames[DEPTH]; /* innermost first */
};

static struct sample *samples;
static uint32_t room, used, lost;
static int fine_clock = -1;
static uint64_t period_ns;
static sigjmp_buf before_walk;
static volatile sig_atomic_t walking;

static uint64_t counter_of(const ucontext_t *context) {
#if defined(__x86_64__)
    return (uint64_t)context->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return context->uc_mcontext.pc;
#else
#error "expected x86-64 or AArch64"
#endif
}

/* The signal is delivered on the way out of the kernel, so behind the instruction that asked it for something. */
static uint32_t behind_system_call(uint64_t pc) {
#if defined(__x86_64__)
    const unsigned char *before = (const unsigned char *)pc - 2;
    return before[0] == 0x0f && before[1] == 0x05;
#else
    return *((const uint32_t *)pc - 1) == 0xd4000001;
#endif
}

static void on_fault(int number) {
    if (walking)
        siglongjmp(before_walk, 1);
    signal(number, SIG_DFL); /* not ours: the instruction is tried again, and fails again */
}

static bool walk(struct sample *sample) {
    PyThreadState *thread = PyGILState_GetThisThreadState(); /* also while it does not hold the GIL */
    if (!thread)
        return true;
    sample->in_collector = thread->interp->gc.collecting != 0;
#if PY_VERSION_HEX >= 0x030d0000
    _PyInterpreterFrame *frame = thread->current_frame;
#else
    _PyInterpreterFrame *frame = thread->cframe->current_frame;
#endif
    for (; frame && sample->depth < DEPTH; frame = frame->previous) {
#if PY_VERSION_HEX >= 0x030d0000
        PyCodeObject *code = (PyCodeObject *)frame->f_executable;
        if (code && !PyCode_Check(code))
            continue; /* where C was entered */
#else
        PyCodeObject *code = frame->f_code;
#endif
        if (!code || !PyCode_Check(code))
            return false;
        struct frame *noted = &sample->frames[sample->depth++];
        noted->code = (uint64_t)(uintptr_t)code;
        noted->offset = (int64_t)_PyInterpreterFrame_LASTI(frame) * (int64_t)sizeof(_Py_CODEUNIT);
    }
    return true;
}

/* For a few instructions of each call the interpreter's newest frame is not in its place yet, and what stands
 * there may point anywhere. Such a sample, about one in a thousand, has no stack. */
static void note_frames(struct sample *sample) {
    sample->depth = sample->in_collector = 0;
    bool whole = false;
    if (!sigsetjmp(before_walk, 1)) {
        walking = 1;
        whole = walk(sample);
    }
    walking = 0;
    if (!whole)
        sample->depth = 0;
}

/* Calls of one kind follow each other like clockwork: a steady clock would meet the same lines again and again. So
 * each period lasts from half to one and a half times what was asked for (a xorshift generator). */
static void wander(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    uint64_t next = period_ns / 2 + state % period_ns;
    if (fine_clock >= 0)
        ioctl(fine_clock, PERF_EVENT_IOC_PERIOD, &next);
}

static void on_signal(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    if (used == room) {
        lost++;
        return;
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct sample *sample = &samples[used];
    sample->pc = counter_of(context);
    sample->time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    sample->in_kernel = behind_system_call(sample->pc);
    note_frames(sample);
    used++;
    wander();
}

/* A clock of the kernel's performance events: as fine as asked for, but not everybody may use it. */
static int start_fine_clock(int number) {
    struct perf_event_attr attributes = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof attributes,
        .config = PERF_COUNT_SW_TASK_CLOCK,
        .sample_period = period_ns,
        .wakeup_events = 1,
        .disabled = 1,
    };
    int fd = (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0)
        return -1;
    /* Without a page to write to, the kernel signals nobody. Mapped to be read only, it is never full. */
    long page = sysconf(_SC_PAGESIZE);
    void *ring = mmap(NULL, (size_t)(2 * page), PROT_READ, MAP_SHARED, fd, 0);
    struct f_owner_ex owner = {F_OWNER_TID, (pid_t)syscall(SYS_gettid)};
    if (ring == MAP_FAILED || fcntl(fd, F_SETOWN_EX, &owner) || fcntl(fd, F_SETSIG, number) ||
        fcntl(fd, F_SETFL, O_ASYNC | O_NONBLOCK) || ioctl(fd, PERF_EVENT_IOC_ENABLE, 0)) {
        close(fd);
        return -1;
    }
    fine_clock = fd;
    return 0;
}

/* A timer on the thread's CPU clock: for everybody, but no finer than the kernel's tick. */
static int start_coarse_clock(int number) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = number};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    timer_t timer;
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer))
        return -1;
    struct itimerspec times = {.it_value.tv_nsec = (long)period_ns};
    times.it_interval = times.it_value;
    return timer_settime(timer, 0, &times, NULL);
}

/* Start to sample the calling thread. 1: as often as asked for; 0: as often as the kernel ticks; -1: not at all. */
int sampler_start(long hertz, long most) {
    int number = SIGRTMIN + 9;
    size_t size = (size_t)most * sizeof *samples;
    samples = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (samples == MAP_FAILED)
        return -1;
    room = (uint32_t)most;
    period_ns = (uint64_t)(1000000000 / hertz);
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigaction fault = {.sa_handler = on_fault};
    if (sigaction(number, &action, NULL) || sigaction(SIGSEGV, &fault, NULL) || sigaction(SIGBUS, &fault, NULL))
        return -1;
    if (!start_fine_clock(number))
        return 1;
    return start_coarse_clock(number);
}

const struct sample *sampler_samples(uint32_t *count, uint32_t *dropped) {
    *count = used;
    *dropped = lost;
    room = 0; /* no more from now on */
    return samples;
}

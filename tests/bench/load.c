/* The load client: opens streams, times every event on arrival, checks that none is lost or moved.
 *
 * usage: load PORT PATH CONCURRENCY REQUESTS EVENTS GAP_US SPREAD_US SEED TIMEOUT_S [hold]
 *
 * CONCURRENCY connections, each sending its share of REQUESTS one after another on one kept
 * connection. The first requests start at random moments within SPREAD_US, so that paced streams
 * are not in step. An event's latency is its arrival (the return of the read that completed it)
 * minus the stamp in its content; TTFB is send to first body byte. A request is complete when all
 * events came in order, then [DONE], then the clean end of the body. With `hold` the client prints
 * "held" when every stream has had its first event, and leaves when its stdin ends.
 * Prints one JSON object. Percentiles come from a full sort, nearest rank.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define EVENT_MAX 4096
#define TIMER_SLOT (-1)
#define STDIN_SLOT (-2)

enum body { CONNECTING, IN_HEAD, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, LENGTH_DATA, UNTIL_CLOSE };

struct slot {
    int fd;
    int left;         /* requests still to send, this one included */
    int used;         /* the connection has carried an answer before */
    uint64_t begin;   /* when the first request is due */
    uint64_t sent;
    int first_byte, first_event;
    enum body state;
    char head[8192];
    int head_len;
    uint64_t rest;    /* bytes of the chunk, or of the body, still to come */
    char line[64];    /* chunk-size or trailer line */
    int line_len;
    char event[EVENT_MAX];
    int event_len;
    int in_chunk;     /* events completed in this chunk */
    int clean_start;  /* the chunk began at an event's beginning */
    uint32_t seen;
    int wrong, done;
};

static int port, concurrency, requests, hold;
static uint32_t events_per_request;
static struct slot *slots;
static int ep, timer_fd, started, running;
static char *request;
static size_t request_len;

static uint64_t *latency, *ttfb, *first;
static size_t latency_n, ttfb_n, first_n;
static uint64_t complete, failed, events_n, bytes_n, chunks_n, whole_chunks_n, reconnects_n;
static char error[256];

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* --- connections -------------------------------------------------------------------------------- */

static void open_slot(struct slot *s) {
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0) die("socket");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(s->fd, (struct sockaddr *)&a, sizeof a) && errno != EINPROGRESS) die("connect");
    struct epoll_event e = {.events = EPOLLOUT, .data.u64 = (uint64_t)(s - slots)};
    epoll_ctl(ep, EPOLL_CTL_ADD, s->fd, &e);
    s->used = 0;
    s->state = CONNECTING;
}

static void send_request(struct slot *s) {
    s->state = IN_HEAD;
    s->head_len = s->line_len = s->event_len = s->in_chunk = 0;
    s->first_byte = s->first_event = s->wrong = s->done = 0;
    s->seen = 0;
    s->sent = now_ns();
    if (write(s->fd, request, request_len) != (ssize_t)request_len) die("write");
}

/* The request is over, well or badly; go on with the next of this slot. */
static void finish(struct slot *s, const char *problem, int reusable) {
    if (!problem && (s->wrong || !s->done || s->seen != events_per_request))
        problem = s->wrong ? "event out of order or malformed"
                  : !s->done ? "no [DONE]" : "events missing";
    if (problem) {
        failed++;
        if (!error[0])
            snprintf(error, sizeof error, "%s (after %u events): %.120s", problem, s->seen,
                     s->event_len ? s->event : s->head);
    } else {
        complete++;
    }
    if (!reusable || problem) {
        close(s->fd);
        s->fd = -1;
    }
    if (--s->left <= 0) {
        running--;
        if (s->fd >= 0) close(s->fd);
        s->fd = -1;
        return;
    }
    if (s->fd >= 0) {
        s->used = 1;
        send_request(s);
        return;
    }
    reconnects_n++;
    open_slot(s);
}

/* --- the body: server-sent events ---------------------------------------------------------------- */

static int digits(const char *p, int n, uint64_t *value) {
    *value = 0;
    for (int i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9') return 0;
        *value = *value * 10 + (uint64_t)(p[i] - '0');
    }
    return 1;
}

static void take_event(struct slot *s, uint64_t now) {
    static const char key[] = "\"content\":\"";
    s->event[s->event_len] = 0;
    s->event_len = 0;
    if (s->event[0] == ':') return; /* a comment is not an event */
    s->in_chunk++;
    if (strncmp(s->event, "data: [DONE]", 12) == 0) {
        s->done = 1;
        return;
    }
    char *p = strstr(s->event, key);
    uint64_t stamp, seq;
    if (!p || s->done || !digits(p + sizeof key - 1, 19, &stamp) ||
        !digits(p + sizeof key - 1 + 20, 6, &seq) || seq != s->seen) {
        s->wrong = 1;
        return;
    }
    s->seen++;
    events_n++;
    if (latency_n < (size_t)requests * events_per_request) latency[latency_n++] = now - stamp;
    if (!s->first_event) {
        s->first_event = 1;
        first[first_n++] = now - s->sent;
        if (hold && first_n == (size_t)requests) {
            puts("held");
            fflush(stdout);
        }
    }
}

static void take_body(struct slot *s, const char *p, size_t n, uint64_t now) {
    if (!s->first_byte && n) {
        s->first_byte = 1;
        ttfb[ttfb_n++] = now - s->sent;
    }
    bytes_n += n;
    while (n) { /* events end with an empty line; copy line by line */
        const char *nl = memchr(p, '\n', n);
        size_t take = nl ? (size_t)(nl - p) + 1 : n;
        if (s->event_len + take >= EVENT_MAX) {
            s->wrong = 1;
            s->event_len = 0;
        }
        memcpy(s->event + s->event_len, p, take);
        s->event_len += (int)take;
        p += take;
        n -= take;
        if (nl && s->event_len >= 2 && s->event[s->event_len - 2] == '\n') take_event(s, now);
    }
}

/* --- the framing: HTTP/1.1 ------------------------------------------------------------------------ */

/* Takes the head from the bytes; returns how many were used, -1 when it is not a 200. */
static int take_head(struct slot *s, const char *p, int n) {
    int before = s->head_len;
    int room = (int)sizeof s->head - 1 - before;
    int copy = n < room ? n : room;
    memcpy(s->head + before, p, (size_t)copy);
    s->head_len += copy;
    s->head[s->head_len] = 0;
    char *end = strstr(s->head, "\r\n\r\n");
    if (!end) return s->head_len == (int)sizeof s->head - 1 ? -1 : n;
    int used = (int)(end - s->head) + 4 - before;
    end[2] = 0;
    if (strncmp(s->head, "HTTP/1.1 200", 12) != 0) {
        end[2] = '\r'; /* show the body too in the error */
        return -1;
    }
    char *length = strcasestr(s->head, "\r\ncontent-length:");
    s->state = UNTIL_CLOSE;
    if (strcasestr(s->head, "\r\ntransfer-encoding: chunked")) {
        s->state = CHUNK_SIZE;
    } else if (length) {
        s->state = LENGTH_DATA;
        s->rest = strtoull(length + 17, NULL, 10);
    }
    return used;
}

/* One line of chunk framing. Returns 1 when it is whole (its CRLF taken). */
static int take_line(struct slot *s, char byte) {
    if (byte != '\n') {
        if (byte != '\r' && s->line_len < (int)sizeof s->line - 1) s->line[s->line_len++] = byte;
        return 0;
    }
    s->line[s->line_len] = 0;
    return 1;
}

static void begin_chunk(struct slot *s) {
    s->rest = strtoull(s->line, NULL, 16);
    s->line_len = 0;
    s->state = s->rest ? CHUNK_DATA : TRAILER;
    s->in_chunk = 0;
    s->clean_start = s->event_len == 0;
}

static void end_chunk(struct slot *s) {
    s->state = CHUNK_END;
    chunks_n++;
    whole_chunks_n += s->clean_start && s->in_chunk == 1 && s->event_len == 0;
}

/* Feeds bytes of one read. Returns 1 when the request ended (and the slot may be reused). */
static int take_bytes(struct slot *s, const char *p, int n, uint64_t now) {
    while (n > 0) {
        int used = 1;
        switch (s->state) {
        case IN_HEAD:
            used = take_head(s, p, n);
            if (used < 0) {
                finish(s, "not a 200", 0);
                return 1;
            }
            break;
        case CHUNK_SIZE:
            if (take_line(s, *p)) begin_chunk(s);
            break;
        case CHUNK_DATA:
        case LENGTH_DATA:
            used = (uint64_t)n < s->rest ? n : (int)s->rest;
            s->rest -= (uint64_t)used;
            take_body(s, p, (size_t)used, now);
            if (!s->rest && s->state == LENGTH_DATA) {
                finish(s, NULL, 1);
                return 1;
            }
            if (!s->rest) end_chunk(s);
            break;
        case CHUNK_END:
            if (*p == '\n') s->state = CHUNK_SIZE;
            break;
        case TRAILER:
            if (!take_line(s, *p)) break;
            if (!s->line_len) {
                finish(s, NULL, !strcasestr(s->head, "\r\nconnection: close"));
                return 1;
            }
            s->line_len = 0;
            break;
        case CONNECTING: /* nothing is read before a request was sent */
        case UNTIL_CLOSE:
            used = n;
            take_body(s, p, (size_t)n, now);
            break;
        }
        p += used;
        n -= used;
    }
    return 0;
}

static void on_connected(struct slot *s) {
    int problem = 0;
    socklen_t size = sizeof problem;
    getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &problem, &size);
    if (problem) {
        finish(s, strerror(problem), 0);
        return;
    }
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = (uint64_t)(s - slots)};
    epoll_ctl(ep, EPOLL_CTL_MOD, s->fd, &e);
    send_request(s);
}

static void on_readable(struct slot *s) {
    static char buf[262144];
    ssize_t n = read(s->fd, buf, sizeof buf);
    if (n < 0 && errno == EAGAIN) return;
    uint64_t now = now_ns();
    if (n > 0) {
        take_bytes(s, buf, (int)n, now);
    } else if (s->used && s->state == IN_HEAD && !s->head_len) {
        close(s->fd); /* a kept connection may close between requests */
        reconnects_n++;
        open_slot(s);
    } else {
        finish(s, s->state == UNTIL_CLOSE ? NULL : "connection closed", 0);
    }
}

/* --- start and report ----------------------------------------------------------------------------- */

static void arm(uint64_t at) {
    struct itimerspec t = {{0, 0}, {(time_t)(at / 1000000000ull), (long)(at % 1000000000ull)}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
}

static int by_begin(const void *a, const void *b) {
    const struct slot *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

static void start_due(void) {
    uint64_t ticks;
    if (read(timer_fd, &ticks, sizeof ticks) < 0 && errno != EAGAIN) die("timer");
    while (started < concurrency && slots[started].begin <= now_ns()) {
        struct slot *s = &slots[started++];
        open_slot(s);
    }
    if (started < concurrency) arm(slots[started].begin);
}

static void build_request(const char *path, uint64_t gap_us) {
    char body[512];
    int n = snprintf(body, sizeof body,
                     "{\"model\":\"glm-4-flash\",\"stream\":true,\"max_tokens\":%u,\"seed\":%llu,"
                     "\"messages\":[{\"role\":\"user\",\"content\":"
                     "\"Introduce the basic concepts of machine learning.\"}]}",
                     events_per_request, (unsigned long long)gap_us);
    request_len = (size_t)asprintf(
        &request,
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer bench.key\r\n"
        "User-Agent: glm-proxy-bench\r\nAccept: text/event-stream\r\n"
        "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
        path, port, n, body);
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double rank_us(const uint64_t *v, size_t n, double share) {
    size_t i = (size_t)(share * (double)n);
    if ((double)i < share * (double)n) i++;
    return (double)v[i ? i - 1 : 0] / 1000.0;
}

static void print_figures(const char *name, uint64_t *v, size_t n) {
    if (!n) {
        printf(",\"%s\":null", name);
        return;
    }
    double sum = 0;
    qsort(v, n, sizeof *v, by_value);
    for (size_t i = 0; i < n; i++) sum += (double)v[i];
    printf(",\"%s\":{\"n\":%zu,\"mean\":%.3f,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f}",
           name, n, sum / (double)n / 1000.0, rank_us(v, n, 0.5), rank_us(v, n, 0.9),
           rank_us(v, n, 0.99), (double)v[n - 1] / 1000.0);
}

static void report(double elapsed) {
    for (char *p = error; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ') *p = ' ';
    printf("{\"requests\":%d,\"complete\":%llu,\"failed\":%llu,\"events\":%llu,\"bytes\":%llu,"
           "\"chunks\":%llu,\"whole_chunks\":%llu,\"reconnects\":%llu,\"elapsed_s\":%.6f,"
           "\"error\":\"%s\"",
           requests, (unsigned long long)complete, (unsigned long long)(requests - complete),
           (unsigned long long)events_n, (unsigned long long)bytes_n, (unsigned long long)chunks_n,
           (unsigned long long)whole_chunks_n, (unsigned long long)reconnects_n, elapsed, error);
    print_figures("event_us", latency, latency_n);
    print_figures("ttfb_us", ttfb, ttfb_n);
    print_figures("first_event_us", first, first_n);
    puts("}");
}

static void prepare(char **argv) {
    port = atoi(argv[1]);
    concurrency = atoi(argv[3]);
    requests = atoi(argv[4]);
    events_per_request = (uint32_t)atoi(argv[5]);
    build_request(argv[2], strtoull(argv[6], NULL, 10));
    uint64_t spread = strtoull(argv[7], NULL, 10) * 1000;
    srandom((unsigned)atoi(argv[8]));
    slots = calloc((size_t)concurrency, sizeof *slots);
    latency = malloc(sizeof *latency * (size_t)requests * events_per_request);
    ttfb = malloc(sizeof *ttfb * (size_t)requests);
    first = malloc(sizeof *first * (size_t)requests);
    if (!slots || !latency || !ttfb || !first) die("malloc");
    uint64_t base = now_ns() + 1000000;
    for (int i = 0; i < concurrency; i++) {
        slots[i].left = requests / concurrency + (i < requests % concurrency);
        slots[i].begin = base + (uint64_t)((double)random() / RAND_MAX * (double)spread);
        running += slots[i].left > 0;
    }
    qsort(slots, (size_t)concurrency, sizeof *slots, by_begin);
}

static void open_epoll(void) {
    ep = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (ep < 0 || timer_fd < 0) die("epoll");
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = (uint64_t)TIMER_SLOT};
    epoll_ctl(ep, EPOLL_CTL_ADD, timer_fd, &e);
    e.data.u64 = (uint64_t)STDIN_SLOT;
    if (hold) epoll_ctl(ep, EPOLL_CTL_ADD, 0, &e);
}

int main(int argc, char **argv) {
    if (argc < 10) {
        fprintf(stderr, "load: see the top of load.c\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    hold = argc > 10;
    prepare(argv);
    open_epoll();
    uint64_t begun = now_ns(), limit = begun + strtoull(argv[9], NULL, 10) * 1000000000ull;
    arm(slots[0].begin);
    while (running > 0 && now_ns() < limit) {
        struct epoll_event ready[256];
        int n = epoll_wait(ep, ready, 256, 100);
        for (int i = 0; i < n; i++) {
            int64_t which = (int64_t)ready[i].data.u64;
            if (which == STDIN_SLOT)
                running = 0;
            else if (which == TIMER_SLOT)
                start_due();
            else if (slots[which].fd >= 0 && slots[which].state == CONNECTING)
                on_connected(&slots[which]);
            else if (slots[which].fd >= 0)
                on_readable(&slots[which]);
        }
    }
    if (running > 0 && !error[0]) snprintf(error, sizeof error, "time is up");
    report((double)(now_ns() - begun) / 1e9);
    return 0;
}

/* The mock upstream: plain HTTP/1.1, GLM-shaped SSE, one event per chunk, each stamped when made.
 *
 * usage: mock            prints its port on stdout, then serves until it is ended
 *
 * A POST is answered by `max_tokens` events, `seed` microseconds apart (both read from the JSON
 * body, so one server serves every scene), then `data: [DONE]` and the last chunk. The head, the
 * first event and everything else that is due leave in one write. The content of an event is
 * "<CLOCK_MONOTONIC in ns, 19 digits>:<sequence, 6 digits>". A GET is answered 200 "ok".
 * One thread, epoll, a heap of due times on one timerfd: the measuring side must cost little.
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

#define MAX_FD 65536
#define IN_MAX (1 << 20) /* a request larger than this is refused by closing */

struct conn {
    int fd;
    char *in;
    size_t in_len, in_cap;
    char *out; /* what the socket did not take */
    size_t out_len, out_cap;
    int streaming;
    int head_sent;
    int at; /* place in the heap, -1 = not waiting */
    uint32_t count, next;
    uint64_t start, gap, due;
};

static struct conn *conns[MAX_FD];
static struct conn *heap[MAX_FD];
static int heap_len;
static int ep, timer;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* --- a binary heap of waiting streams, earliest due time first --------------------------------- */

static void heap_put(int i, struct conn *c) {
    heap[i] = c;
    c->at = i;
}

static void heap_up(int i) {
    struct conn *c = heap[i];
    while (i > 0 && heap[(i - 1) / 2]->due > c->due) {
        heap_put(i, heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    heap_put(i, c);
}

static void heap_down(int i) {
    struct conn *c = heap[i];
    for (;;) {
        int child = 2 * i + 1;
        if (child >= heap_len) break;
        if (child + 1 < heap_len && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= c->due) break;
        heap_put(i, heap[child]);
        i = child;
    }
    heap_put(i, c);
}

static void heap_add(struct conn *c) {
    heap_put(heap_len++, c);
    heap_up(c->at);
}

static void heap_remove(struct conn *c) {
    int i = c->at;
    if (i < 0) return;
    c->at = -1;
    if (i == --heap_len) return;
    heap_put(i, heap[heap_len]);
    heap_up(i);
    heap_down(heap[i]->at);
}

static void arm_timer(void) {
    static uint64_t armed;
    uint64_t due = heap_len ? heap[0]->due : 0;
    if (due == armed) return;
    armed = due;
    struct itimerspec t = {{0, 0}, {(time_t)(due / 1000000000ull), (long)(due % 1000000000ull)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &t, NULL);
}

/* --- writing ------------------------------------------------------------------------------------ */

static void watch(struct conn *c, uint32_t events, int op) {
    struct epoll_event e = {.events = events, .data.fd = c->fd};
    epoll_ctl(ep, op, c->fd, &e);
}

static void close_conn(struct conn *c) {
    heap_remove(c);
    conns[c->fd] = NULL;
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

static int send_bytes(struct conn *c, const char *p, size_t n) {
    if (!c->out_len) {
        ssize_t sent = write(c->fd, p, n);
        if (sent < 0 && errno != EAGAIN) return -1;
        if (sent < 0) sent = 0;
        if ((size_t)sent == n) return 0;
        p += sent;
        n -= (size_t)sent;
        watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    }
    if (c->out_len + n > c->out_cap) {
        c->out_cap = (c->out_len + n) * 2;
        c->out = realloc(c->out, c->out_cap);
        if (!c->out) die("realloc");
    }
    memcpy(c->out + c->out_len, p, n);
    c->out_len += n;
    return 0;
}

static int flush_out(struct conn *c) {
    ssize_t sent = write(c->fd, c->out, c->out_len);
    if (sent < 0) return errno == EAGAIN ? 0 : -1;
    c->out_len -= (size_t)sent;
    memmove(c->out, c->out + sent, c->out_len);
    if (!c->out_len) watch(c, EPOLLIN, EPOLL_CTL_MOD);
    return 0;
}

static const char HEAD[] =
    "HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Type: text/event-stream;charset=UTF-8\r\n"
    "Cache-Control: no-cache\r\nX-LOG-ID: 20251120093015a1b2c3d4e5f6071\r\n"
    "Transfer-Encoding: chunked\r\n\r\n";
static const char DONE[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
static const char OK[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok";

static size_t write_event(char *to, uint64_t stamp, uint32_t seq) {
    char event[512];
    int n = sprintf(event,
                    "data: {\"id\":\"20251120093015a1b2c3d4e5f6071\",\"created\":1763602215,"
                    "\"model\":\"glm-4-flash\",\"choices\":[{\"index\":0,\"delta\":{"
                    "\"role\":\"assistant\",\"content\":\"%019llu:%06u\"}}]}\n\n",
                    (unsigned long long)stamp, seq);
    return (size_t)sprintf(to, "%x\r\n%s\r\n", n, event);
}

/* Everything due at `now`, in one write. Returns -1 when the peer is gone. */
static int emit(struct conn *c, uint64_t now) {
    static char buf[65536];
    size_t n = 0;
    if (!c->head_sent) {
        memcpy(buf, HEAD, sizeof HEAD - 1);
        n = sizeof HEAD - 1;
        c->head_sent = 1;
    }
    while (c->next < c->count && c->due <= now && n < sizeof buf - 1024) {
        n += write_event(buf + n, now_ns(), c->next++);
        c->due = c->start + c->next * c->gap;
    }
    if (c->next == c->count) {
        memcpy(buf + n, DONE, sizeof DONE - 1);
        n += sizeof DONE - 1;
        c->streaming = 0;
    }
    return send_bytes(c, buf, n);
}

/* --- reading ------------------------------------------------------------------------------------ */

static uint64_t number_after(const char *text, const char *key, uint64_t otherwise) {
    const char *p = strstr(text, key);
    if (!p) return otherwise;
    p += strlen(key);
    while (*p == ' ' || *p == ':') p++;
    return strtoull(p, NULL, 10);
}

/* Length of the first whole request in the buffer, 0 when it is not whole yet. */
static size_t whole_request(struct conn *c) {
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return 0;
    size_t head = (size_t)(end - c->in) + 4;
    *end = 0; /* look for headers in the head only */
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    int chunked = strcasestr(c->in, "\r\ntransfer-encoding:") != NULL;
    size_t body = length ? strtoull(length + 17, NULL, 10) : 0;
    *end = '\r';
    if (!chunked) return c->in_len >= head + body ? head + body : 0;
    if (strncmp(c->in + head, "0\r\n\r\n", 5) == 0) return head + 5;
    char *last = strstr(c->in + head, "\r\n0\r\n\r\n");
    return last ? (size_t)(last - c->in) + 7 : 0;
}

static int start_request(struct conn *c, size_t length) {
    char kept = c->in[length];
    c->in[length] = 0;
    int failed = 0;
    if (strncmp(c->in, "POST ", 5) == 0) {
        char *body = strstr(c->in, "\r\n\r\n");
        c->count = (uint32_t)number_after(body, "\"max_tokens\"", 1);
        c->gap = number_after(body, "\"seed\"", 0) * 1000;
        c->start = c->due = now_ns();
        c->next = 0;
        c->head_sent = 0;
        c->streaming = 1;
        failed = emit(c, c->start);
        if (!failed && c->streaming) heap_add(c);
    } else {
        failed = send_bytes(c, OK, sizeof OK - 1);
    }
    c->in[length] = kept;
    c->in_len -= length;
    memmove(c->in, c->in + length, c->in_len + 1);
    return failed;
}

static int start_requests(struct conn *c) {
    size_t length;
    while (!c->streaming && c->in_len && (length = whole_request(c)))
        if (start_request(c, length)) return -1;
    return 0;
}

static int read_more(struct conn *c) {
    if (c->in_cap - c->in_len < 8192) {
        c->in_cap = c->in_cap ? c->in_cap * 2 : 16384;
        if (c->in_cap > IN_MAX) return -1;
        c->in = realloc(c->in, c->in_cap);
        if (!c->in) die("realloc");
    }
    ssize_t n = read(c->fd, c->in + c->in_len, c->in_cap - c->in_len - 1);
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    if (n == 0) return -1;
    c->in_len += (size_t)n;
    c->in[c->in_len] = 0;
    return start_requests(c);
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= MAX_FD) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct conn *c = conns[fd] = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = fd;
        c->at = -1;
        watch(c, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static void emit_due(void) {
    uint64_t now = now_ns();
    while (heap_len && heap[0]->due <= now) {
        struct conn *c = heap[0];
        heap_remove(c);
        if (emit(c, now) || (!c->streaming && start_requests(c)))
            close_conn(c);
        else if (c->streaming && c->at < 0)
            heap_add(c);
    }
}

static int listen_on_loopback(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096)) die("listen");
    getsockname(fd, (struct sockaddr *)&a, &size);
    printf("%d\n", ntohs(a.sin_port));
    fflush(stdout);
    return fd;
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    int listener = listen_on_loopback();
    ep = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (ep < 0 || timer < 0) die("epoll");
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e);
    e.data.fd = timer;
    epoll_ctl(ep, EPOLL_CTL_ADD, timer, &e);
    for (;;) {
        struct epoll_event ready[256];
        arm_timer();
        int n = epoll_wait(ep, ready, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            struct conn *c = conns[fd];
            if (fd == listener) {
                accept_all(listener);
            } else if (fd == timer) {
                uint64_t ticks;
                if (read(timer, &ticks, sizeof ticks) < 0) continue;
            } else if (c) {
                int gone = (ready[i].events & EPOLLOUT) && c->out_len ? flush_out(c) : 0;
                if (gone || ((ready[i].events & ~EPOLLOUT) && read_more(c))) close_conn(c);
            }
        }
        emit_due();
    }
}

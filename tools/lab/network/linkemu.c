/*
 * A link emulator in user space, for kernels without netem.
 *
 * Each link joins two TAP devices: "eth0" in the namespace of a device and "port<i>" in the namespace of the switch.
 * Frames pass at a rate, after a delay, with loss, through a queue of bounded time; both directions alike.
 *
 *   linkemu SWITCH-NAMESPACE NAMESPACE...
 *
 * reads commands from standard input, one a line, and says "ok" after each:
 *
 *   LINK DELAY_US JITTER_US LOSS_PERCENT RATE_KBIT      (0 kbit/s: no limit; 100 % loss: a partition)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { MOST_LINKS = 16, SLOTS = 8192, MOST_FRAME = 65536, READS = 64 };
static const int64_t QUEUE_NS = 100000000; /* what a switch of this size would hold */

struct frame { unsigned char *bytes; int length; int64_t due; };
struct lane { struct frame slots[SLOTS]; unsigned first, next; int64_t free_at, last_due; };
struct link { int ends[2]; struct lane lanes[2]; double delay_us, jitter_us, loss, rate_kbit; };

static struct link links[MOST_LINKS];
static int count;

static void die(const char *what) { perror(what); exit(1); }

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int open_tap(const char *space, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "/var/run/netns/%s", space);
    int handle = open(path, O_RDONLY | O_CLOEXEC);
    if (handle < 0 || setns(handle, CLONE_NEWNET)) die(path);
    close(handle);
    int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (tap < 0) die("/dev/net/tun");
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
    if (ioctl(tap, TUNSETIFF, &request)) die(name);
    return tap;
}

static void take(struct link *link, int from) {
    static unsigned char buffer[MOST_FRAME];
    struct lane *lane = &link->lanes[from];
    for (int i = 0; i < READS; i++) {
        int length = read(link->ends[from], buffer, sizeof buffer);
        if (length <= 0) return;
        if (drand48() * 100.0 < link->loss) continue;
        int64_t now = now_ns();
        if (lane->free_at < now) lane->free_at = now;
        int full = lane->next - lane->first >= SLOTS || (link->rate_kbit > 0 && lane->free_at - now > QUEUE_NS);
        if (full) continue;
        if (link->rate_kbit > 0) lane->free_at += (int64_t)(length * 8e6 / link->rate_kbit);
        double late_us = link->delay_us + link->jitter_us * (2 * drand48() - 1);
        int64_t due = lane->free_at + (int64_t)(late_us * 1000);
        if (due < lane->last_due) due = lane->last_due; /* frames do not overtake */
        lane->last_due = due;
        struct frame *slot = &lane->slots[lane->next++ % SLOTS];
        *slot = (struct frame){malloc(length), length, due};
        if (!slot->bytes) die("malloc");
        memcpy(slot->bytes, buffer, length);
    }
}

/* Hands over what is due; returns when the next frame will be, or -1. */
static int64_t give(struct link *link, int from) {
    struct lane *lane = &link->lanes[from];
    while (lane->first != lane->next) {
        struct frame *slot = &lane->slots[lane->first % SLOTS];
        if (slot->due > now_ns()) return slot->due;
        if (write(link->ends[1 - from], slot->bytes, slot->length) < 0 && errno == EAGAIN) return now_ns() + 100000;
        free(slot->bytes);
        lane->first++;
    }
    return -1;
}

static void obey(void) {
    static char text[4096];
    static size_t used;
    ssize_t more = read(0, text + used, sizeof text - 1 - used);
    if (more == 0) exit(0); /* who started us is gone */
    if (more < 0) return;
    used += more;
    text[used] = 0;
    char *line = text, *end;
    while ((end = strchr(line, '\n'))) {
        int i;
        struct link wanted;
        *end = 0;
        int read_all = sscanf(line, "%d %lf %lf %lf %lf", &i, &wanted.delay_us, &wanted.jitter_us, &wanted.loss, &wanted.rate_kbit);
        if (read_all == 5 && i >= 0 && i < count) {
            links[i].delay_us = wanted.delay_us;
            links[i].jitter_us = wanted.jitter_us;
            links[i].loss = wanted.loss;
            links[i].rate_kbit = wanted.rate_kbit;
            puts("ok");
        } else {
            puts("not a command");
        }
        fflush(stdout);
        line = end + 1;
    }
    used -= line - text;
    memmove(text, line, used);
}

int main(int argc, char **argv) {
    count = argc - 2;
    if (count < 1 || count > MOST_LINKS) {
        fprintf(stderr, "usage: linkemu SWITCH-NAMESPACE NAMESPACE...\n");
        return 2;
    }
    struct pollfd polled[2 * MOST_LINKS + 1];
    for (int i = 0; i < count; i++) {
        char port[16];
        snprintf(port, sizeof port, "port%d", i);
        links[i].ends[0] = open_tap(argv[2 + i], "eth0");
        links[i].ends[1] = open_tap(argv[1], port);
        for (int k = 0; k < 2; k++) polled[2 * i + k] = (struct pollfd){links[i].ends[k], POLLIN, 0};
    }
    polled[2 * count] = (struct pollfd){0, POLLIN, 0};
    srand48(1);
    fcntl(0, F_SETFL, O_NONBLOCK);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int64_t soonest = -1;
        for (int i = 0; i < count; i++)
            for (int k = 0; k < 2; k++) {
                int64_t due = give(&links[i], k);
                if (due >= 0 && (soonest < 0 || due < soonest)) soonest = due;
            }
        struct timespec pause, *wait = NULL;
        if (soonest >= 0) {
            int64_t left = soonest - now_ns();
            if (left < 0) left = 0;
            pause = (struct timespec){left / 1000000000, left % 1000000000};
            wait = &pause;
        }
        if (ppoll(polled, 2 * count + 1, wait, NULL) < 0 && errno != EINTR) die("ppoll");
        for (int i = 0; i < count; i++)
            for (int k = 0; k < 2; k++)
                if (polled[2 * i + k].revents & POLLIN) take(&links[i], k);
        if (polled[2 * count].revents) obey();
    }
}

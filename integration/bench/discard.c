// discard PROTOCOL PORT-FILE: a receiver on a free port of loopback that acknowledges everything and keeps nothing.
//
// PROTOCOL is `stream` (bytes without answers), `es`, `otlp` or `forward`. The port is written to PORT-FILE. One process
// for each connection. It does as little as the protocol allows: what is measured is who sends.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOM = 1 << 20 };
static char buffer[ROOM + 1];
static size_t start, end;

// fill: more bytes behind those that are there; ends the process with the connection.
static void fill(int peer) {
    memmove(buffer, buffer + start, end - start);
    end -= start;
    start = 0;
    ssize_t got = recv(peer, buffer + end, ROOM - end, 0);
    if (got <= 0) exit(0);
    end += (size_t)got;
    buffer[end] = 0;
}

static void send_all(int peer, const char *bytes, size_t length) {
    while (length) {
        ssize_t sent = send(peer, bytes, length, MSG_NOSIGNAL);
        if (sent <= 0) exit(0);
        bytes += sent, length -= (size_t)sent;
    }
}

// skip: throws bytes away, and counts the newlines among them if asked to.
static size_t skip(int peer, size_t length, int count) {
    size_t lines = 0;
    while (length) {
        if (start == end) fill(peer);
        size_t here = end - start < length ? end - start : length;
        if (count)
            for (char *at = buffer + start; (at = memchr(at, '\n', (size_t)(buffer + start + here - at))); at++) lines++;
        start += here, length -= here;
    }
    return lines;
}

static void http(int peer, int es) {
    static char answer[1 << 20], head[sizeof answer + 99];
    for (;;) {
        char *body;
        while (!(body = memmem(buffer + start, end - start, "\r\n\r\n", 4))) fill(peer);
        char *length = strcasestr(buffer + start, "content-length:");
        if (!length || length > body) errx(1, "a request without a length");
        size_t bytes = strtoul(length + 15, NULL, 10);
        start = (size_t)(body + 4 - buffer);
        size_t documents = skip(peer, bytes, es) / 2;
        size_t at = 0;
        if (es) at = (size_t)sprintf(answer, "{\"errors\":false,\"items\":[");
        for (size_t document = 0; document < documents; document++)
            at += (size_t)sprintf(answer + at, "%s{\"create\":{\"status\":201}}", document ? "," : "");
        if (es) at += (size_t)sprintf(answer + at, "]}");
        send_all(peer, head, (size_t)sprintf(head, "HTTP/1.1 200 OK\r\ncontent-length: %zu\r\n\r\n%s", at, answer));
    }
}

static unsigned char byte(int peer) {
    if (start == end) fill(peer);
    return (unsigned char)buffer[start++];
}

static size_t number(int peer, int bytes) {
    size_t value = 0;
    while (bytes--) value = value << 8 | byte(peer);
    return value;
}

// A string's, bin's or small map's length, or a number's value.
static size_t head(int peer) {
    unsigned char type = byte(peer);
    if (type <= 0x7f) return type;
    if (type >= 0xa0 && type <= 0xbf) return type & 31;
    if ((type & 0xf0) == 0x90 || (type & 0xf0) == 0x80) return type & 15;
    switch (type) {
    case 0xc4: case 0xd9: case 0xcc: return number(peer, 1);
    case 0xc5: case 0xda: case 0xcd: return number(peer, 2);
    case 0xc6: case 0xdb: case 0xce: return number(peer, 4);
    }
    errx(1, "type %#x was not expected", type);
}

static void text(int peer, char *to) {
    size_t length = head(peer);
    if (length > 250) errx(1, "a long string");
    for (size_t at = 0; at < length; at++) to[at] = (char)byte(peer);
    to[length] = 0;
}

static void forward(int peer) {
    for (;;) {
        char name[256], chunk[256] = "";
        head(peer);
        text(peer, name);
        skip(peer, head(peer), 0);
        for (size_t pairs = head(peer); pairs; pairs--) {
            text(peer, name);
            if (!strcmp(name, "size")) head(peer);
            else text(peer, chunk);
        }
        char answer[300];
        size_t length = strlen(chunk);
        int at = sprintf(answer, "\x81\xa3" "ack\xd9%c", (int)length);
        memcpy(answer + at, chunk, length);
        send_all(peer, answer, (size_t)at + length);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) errx(2, "discard PROTOCOL PORT-FILE");
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 16)) err(1, "listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    FILE *file = fopen(argv[2], "w");
    if (!file || fprintf(file, "%d\n", ntohs(address.sin_port)) < 0 || fclose(file)) err(1, "%s", argv[2]);
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int peer = accept(listener, NULL, NULL);
        if (peer < 0) err(1, "accept");
        if (fork() == 0) {
            if (!strcmp(argv[1], "es")) http(peer, 1);
            if (!strcmp(argv[1], "otlp")) http(peer, 0);
            if (!strcmp(argv[1], "forward")) forward(peer);
            // MSG_TRUNC: TCP's bytes are thrown away in the kernel (tcp(7)).
            while (recv(peer, buffer, ROOM, MSG_TRUNC) > 0) {}
            exit(0);
        }
        close(peer);
    }
}

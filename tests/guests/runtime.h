/*
 * What the bare-metal guests of the tests share: they are loaded in the place of Linux, find the
 * virtio device with our ports, and speak the control protocol as our PID 1 does (see
 * guest/src/protocol). Freestanding, no interrupts: everything is polled.
 */
#ifndef SANDPEN_GUEST_RUNTIME_H
#define SANDPEN_GUEST_RUNTIME_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

enum port { CONTROL, STDIN, STDOUT, STDERR, FILES, SESSIONS, PORTS };

/* Most bytes of one write: one descriptor. */
#define CHUNK (32 * 1024)

/* The guest's program; what it returns is the workload's exit code. */
int run(void);

/* A message on the first serial port, for the VMM log. */
void print(const char *text);
/* Writes everything to stdout or stderr, and counts it for the report. */
void write_all(enum port port, const void *bytes, u64 length);
/* Bytes of the workload's standard input: 0 at its end. */
u32 read_stdin(u8 *bytes);
/* Makes the first shared directory ready; whether there is one. */
int open_share(void);
/* Sends it a request of FUSE, with its header; the length of the reply. */
u32 ask_share(const void *request, u32 length, void *reply, u32 size);
/* Makes the balloon ready; whether there is one that takes reports of free memory. */
int open_balloon(void);
/* Tells it that these bytes, whole pages, are free. */
void report_free(void *bytes, u32 length);

#endif

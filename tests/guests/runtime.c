#include "runtime.h"

/* ---- entry: a stack of our own, and all of the first 4 GiB where they are ---- */

__asm__(".globl _start\n"
        "_start:\n"
        "  cli\n"
        "  lea stack_end(%rip), %rsp\n"
        "  call begin\n"
        ".bss\n.balign 4096\nstack: .skip 65536\nstack_end:\n.text\n");

static u64 level4[512] __attribute__((aligned(4096)));
static u64 level3[512] __attribute__((aligned(4096)));
static u64 level2[4][512] __attribute__((aligned(4096)));

static void map_memory(void)
{
    level4[0] = (u64)level3 | 3;
    for (u64 gib = 0; gib < 4; gib++) {
        level3[gib] = (u64)level2[gib] | 3;
        for (u64 page = 0; page < 512; page++)
            level2[gib][page] = (gib << 30 | page << 21) | 0x83; /* present, writable, 2 MiB */
    }
    __asm__ volatile("mov %0, %%cr3" ::"r"(level4) : "memory");
}

static void out8(u16 io_port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(io_port)); }

void print(const char *text)
{
    while (*text)
        out8(0x3f8, (u8)*text++);
}

/* The keyboard controller's reset line: libkrun takes it for the end of the machine. */
static void power_off(void)
{
    for (;;) {
        out8(0x64, 0xfe);
        __asm__ volatile("hlt");
    }
}

static void give_up(const char *text)
{
    print(text);
    power_off();
}

/* ---- virtio over MMIO, version 2, one descriptor at a time per queue ---- */

#define QUEUE_SIZE 32
#define QUEUES (2 + 2 * PORTS)
/* Kinds of devices. */
#define CONSOLE 3
#define BALLOON 5
#define FILE_SYSTEM 26

struct descriptor { u64 address; u32 length; u16 flags, next; };
struct used { u32 id, length; };
struct queue {
    struct descriptor descriptors[QUEUE_SIZE] __attribute__((aligned(4096)));
    u16 available_flags, available_index, available[QUEUE_SIZE + 1];
    u16 used_flags __attribute__((aligned(4096)));
    u16 used_index;
    struct used used[QUEUE_SIZE];
    u16 pad, seen;
} __attribute__((aligned(4096)));

static volatile struct queue queues[QUEUES];
/* The device that is spoken to: the console, but for requests to a file system. */
static volatile u8 *device;
static volatile u8 *share;

static u32 get(u32 at) { return *(volatile u32 *)(device + at); }
static void set(u32 at, u32 value) { *(volatile u32 *)(device + at) = value; }
static void set_address(u32 at, volatile const void *address)
{
    set(at, (u32)(u64)address);
    set(at + 4, (u32)((u64)address >> 32));
}

/* libkrun's devices lie one after the other from here on; this is the first of a kind. */
static int find_device(u32 kind)
{
    for (u64 i = 0; i < 32; i++) {
        device = (u8 *)(0xd0000000 + i * 0x1000);
        if (get(0) == 0x74726976 && get(8) == kind && (kind != CONSOLE || get(0x104) == PORTS))
            return 1;
    }
    return 0;
}

/* Agrees on these features of the first 32, and on version 1. */
static void begin_setup(u32 features)
{
    set(0x70, 0);
    set(0x70, 1);
    set(0x70, 1 | 2);
    set(0x24, 0);
    set(0x20, features);
    set(0x24, 1);
    set(0x20, 1); /* VIRTIO_F_VERSION_1 */
    set(0x70, 1 | 2 | 8);
}

static void set_queue(u32 q, volatile struct queue *queue)
{
    set(0x30, q);
    set(0x38, QUEUE_SIZE);
    set_address(0x80, queue->descriptors);
    set_address(0x90, &queue->available_flags);
    set_address(0xa0, &queue->used_flags);
    set(0x44, 1);
}

/* Makes what begins with the descriptor in this slot available, as queue q of the device. */
static void make_available(volatile struct queue *queue, u32 q, u16 slot)
{
    queue->available[queue->available_index % QUEUE_SIZE] = slot;
    __sync_synchronize();
    queue->available_index++;
    __sync_synchronize();
    set(0x50, q);
}

static void offer(u32 q, volatile const void *bytes, u32 length, u16 flags)
{
    volatile struct queue *queue = &queues[q];
    u16 slot = queue->available_index % QUEUE_SIZE;
    queue->descriptors[slot] = (struct descriptor){(u64)bytes, length, flags, 0};
    make_available(queue, q, slot);
}

/* The length that the device used, once it did; never 0 for a port. */
static u32 used_of(volatile struct queue *queue, int wait)
{
    while (queue->used_index == queue->seen) {
        if (!wait)
            return 0;
        __asm__ volatile("pause" ::: "memory");
    }
    __sync_synchronize();
    return queue->used[queue->seen++ % QUEUE_SIZE].length;
}

static u32 used(u32 q, int wait) { return used_of(&queues[q], wait); }

static u32 receive_queue(enum port port) { return port ? 2 + 2 * port : 0; }
static u32 send_queue(enum port port) { return receive_queue(port) + 1; }

static void send(u32 q, const void *bytes, u32 length)
{
    offer(q, bytes, length, 0);
    used(q, 1);
}

static void control_event(u32 port, u16 event, u16 value)
{
    struct { u32 port; u16 event, value; } message = {port, event, value};
    send(3, &message, sizeof message);
}

static u8 events[QUEUE_SIZE][64];

static void open_ports(void)
{
    begin_setup(1 << 1); /* VIRTIO_CONSOLE_F_MULTIPORT */
    for (u32 q = 0; q < QUEUES; q++)
        set_queue(q, &queues[q]);
    set(0x70, 1 | 2 | 4 | 8);
    for (u32 i = 0; i < QUEUE_SIZE; i++)
        offer(2, events[i], sizeof events[i], 2);
    control_event(0, 0, 1); /* the driver is ready */
    for (u32 port = 0; port < PORTS; port++) {
        control_event(port, 3, 1); /* the port is ready */
        control_event(port, 6, 1); /* and open */
    }
}

/* ---- a shared directory: requests of FUSE, one at a time ---- */

static volatile struct queue share_queues[2]; /* of high priority; of requests */

int open_share(void)
{
    volatile u8 *console = device;
    int is_there = find_device(FILE_SYSTEM);
    if (is_there) {
        begin_setup(0);
        for (u32 q = 0; q < 2; q++)
            set_queue(q, &share_queues[q]);
        set(0x70, 1 | 2 | 4 | 8);
    }
    share = device;
    device = console;
    return is_there;
}

u32 ask_share(const void *request, u32 length, void *reply, u32 size)
{
    volatile struct queue *queue = &share_queues[1];
    queue->descriptors[0] = (struct descriptor){(u64)request, length, 1, 1};
    /* The header apart, as Linux has it: libkrun puts it nowhere if it lies before data. */
    queue->descriptors[1] = (struct descriptor){(u64)reply, 16, 1 | 2, 2};
    queue->descriptors[2] = (struct descriptor){(u64)reply + 16, size - 16, 2, 0};
    volatile u8 *console = device;
    device = share;
    make_available(queue, 1, 0);
    device = console;
    return used_of(queue, 1);
}

/* ---- the balloon ---- */

/* Inflating, deflating, statistics, hints, and reports of free memory. */
#define BALLOON_QUEUES 5
#define REPORTS 4

static volatile struct queue balloon_queues[BALLOON_QUEUES];
static volatile u8 *balloon;

int open_balloon(void)
{
    volatile u8 *console = device;
    int is_there = find_device(BALLOON);
    if (is_there) {
        set(0x14, 0);
        is_there = get(0x10) >> 5 & 1; /* VIRTIO_BALLOON_F_REPORTING */
        begin_setup(1 << 1 | 1 << 3 | 1 << 5); /* with statistics and hints, or the queues have other numbers */
        for (u32 q = 0; q < BALLOON_QUEUES; q++)
            set_queue(q, &balloon_queues[q]);
        set(0x70, 1 | 2 | 4 | 8);
    }
    balloon = device;
    device = console;
    return is_there;
}

void report_free(void *bytes, u32 length)
{
    volatile struct queue *queue = &balloon_queues[REPORTS];
    queue->descriptors[0] = (struct descriptor){(u64)bytes, length, 2, 0};
    volatile u8 *console = device;
    device = balloon;
    make_available(queue, REPORTS, 0);
    device = console;
    used_of(queue, 1);
}

/* ---- the control protocol ---- */

static u32 crc(u32 state, const u8 *bytes, u32 length)
{
    while (length--) {
        state ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            state = state >> 1 ^ (state & 1 ? 0xedb88320 : 0);
    }
    return state;
}

static u32 varint(u8 *to, u64 number)
{
    u32 length = 0;
    for (; number >= 0x80; number >>= 7)
        to[length++] = (u8)number | 0x80;
    to[length++] = (u8)number;
    return length;
}

static void tell(const u8 *payload, u32 length)
{
    u8 frame[128] = {0xf5, 'S', 'p', 0xff, 1, 2, (u8)length};
    for (u32 i = 0; i < length; i++)
        frame[14 + i] = payload[i];
    u32 sum = ~crc(crc(~0u, frame + 4, 6), frame + 14, length);
    for (u32 i = 0; i < 4; i++)
        frame[10 + i] = (u8)(sum >> 8 * i);
    send(send_queue(CONTROL), frame, 14 + length);
}

/* Reads a port to the last byte that is wanted. */
struct input { enum port port; u8 bytes[4096]; u32 at, length; int offered; };

static u8 next(struct input *input)
{
    while (input->at == input->length) {
        if (!input->offered)
            offer(receive_queue(input->port), input->bytes, sizeof input->bytes, 2);
        input->offered = 1;
        input->length = used(receive_queue(input->port), 1);
        input->offered = 0;
        input->at = 0;
    }
    return input->bytes[input->at++];
}

static int has_next(struct input *input)
{
    if (input->at < input->length)
        return 1;
    if (!input->offered)
        offer(receive_queue(input->port), input->bytes, sizeof input->bytes, 2);
    input->offered = 1;
    u32 length = used(receive_queue(input->port), 0);
    if (!length)
        return 0;
    input->offered = 0;
    input->at = 0;
    input->length = length;
    return 1;
}

/* A frame's first bytes; the host is believed. */
static u32 frame(struct input *input, u8 *payload, u32 size)
{
    u8 head[14];
    for (u32 i = 0; i < sizeof head; i++)
        head[i] = next(input);
    u32 length = head[6] | head[7] << 8 | head[8] << 16 | (u32)head[9] << 24;
    for (u32 i = 0; i < length; i++) {
        u8 byte = next(input);
        if (i < size)
            payload[i] = byte;
    }
    return length < size ? length : size;
}

static struct input from_host = {.port = CONTROL};
static struct input from_user = {.port = STDIN};
static u64 written[PORTS];
static int ended = -1;

static u32 exit_report(u8 *to)
{
    u32 length = 0;
    to[length++] = 0; /* Code */
    to[length++] = (u8)ended;
    length += varint(to + length, written[STDOUT]);
    return length + varint(to + length, written[STDERR]);
}

/* Handles one message; says whether it was the acknowledgement. */
static int obey(void)
{
    u8 message[16], answer[64];
    u32 length = frame(&from_host, message, sizeof message);
    if (message[0] == 1) { /* Query */
        u32 at = 0;
        answer[at++] = 4; /* Status */
        for (u32 i = 1; i < length; i++)
            answer[at++] = message[i];
        answer[at++] = ended < 0 ? 1 : 3;
        if (ended >= 0)
            at += exit_report(answer + at);
        tell(answer, at);
    }
    return message[0] == 3;
}

void write_all(enum port port, const void *bytes, u64 length)
{
    while (length) {
        u32 part = length < CHUNK ? (u32)length : CHUNK;
        send(send_queue(port), bytes, part);
        bytes = (const u8 *)bytes + part;
        length -= part;
        written[port] += part;
        while (has_next(&from_host))
            obey();
    }
}

u32 read_stdin(u8 *bytes)
{
    static u8 message[4096];
    u32 length = frame(&from_user, message, sizeof message);
    if (message[0] != 0) /* StdinEnd */
        return 0;
    u32 at = 1;
    while (message[at++] & 0x80)
        ;
    for (u32 i = at; i < length; i++)
        bytes[i - at] = message[i];
    return length - at;
}

void begin(void)
{
    map_memory();
    if (!find_device(CONSOLE))
        give_up("no virtio device with as many ports\n");
    open_ports();
    tell((u8[]){0, 1}, 2); /* Ready, version 1 */
    u8 start[16];
    frame(&from_host, start, sizeof start);
    tell((u8[]){1}, 1); /* Started */
    ended = run();
    u8 report[64] = {3}; /* Exit */
    tell(report, 1 + exit_report(report + 1));
    while (!obey())
        ;
    power_off();
}

/* What the compiler may call. */
void *memset(void *to, int byte, u64 length)
{
    for (u64 i = 0; i < length; i++)
        ((volatile u8 *)to)[i] = (u8)byte;
    return to;
}

void *memcpy(void *to, const void *from, u64 length)
{
    for (u64 i = 0; i < length; i++)
        ((volatile u8 *)to)[i] = ((const u8 *)from)[i];
    return to;
}

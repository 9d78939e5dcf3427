// Transports: the mailbox in uncached memory, and framed messages over the UART.
#include "link.h"

#include "board.h"
#include <generated/tvu.h>

#define GIVE_UP_CYCLES 1250000000u // ten seconds without the host taking an event

static volatile uint32_t *const mailbox = (volatile uint32_t *)MAILBOX_BASE;
#define URGENT_WORDS 3 // of a frame without payload

static uint32_t uart_frame[2 + PROTOCOL_MAX_PAYLOAD]; // type, length, payload of the running command
static uint32_t uart_urgent[URGENT_WORDS];            // what comes meanwhile, as far as it can be of interest
static uint32_t *uart_target = uart_frame;            // where the frame that is being received goes
static uint32_t uart_room;                            // words that fit there
static uint32_t uart_length, uart_crc;                // of that frame
static uint32_t uart_words;                           // words of it received so far
static uint32_t uart_shift;                           // last four bytes seen
static uint32_t uart_bytes;                           // bytes of the word being received
static bool uart_in_frame, uart_reply, uart_cancel;
static uint32_t command_sequence;

static void uart_put(uint8_t byte)
{
    while (uart_txfull_read())
        ;
    uart_rxtx_write(byte);
}

void uart_text(const char *text)
{
    for (; *text; text++)
        uart_put((uint8_t)*text);
}

void uart_hex(uint32_t value)
{
    for (int shift = 28; shift >= 0; shift -= 4)
        uart_put((uint8_t)"0123456789abcdef"[value >> shift & 15]);
}

static uint32_t crc_word(uint32_t crc, uint32_t word)
{
    static const uint32_t nibble[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    crc ^= word;
    for (int i = 0; i < 8; i++)
        crc = nibble[crc & 15] ^ crc >> 4;
    return crc;
}

static void uart_put_word(uint32_t word)
{
    for (int i = 0; i < 4; i++)
        uart_put((uint8_t)(word >> (8 * i)));
}

// Feeds one byte to the frame receiver; true when a whole, undamaged frame is in uart_target, or what fits there of it.
static bool uart_feed(uint8_t byte)
{
    uart_shift = uart_shift >> 8 | (uint32_t)byte << 24;
    if (!uart_in_frame) {
        uart_in_frame = uart_shift == PROTOCOL_SYNC;
        uart_words = uart_bytes = 0;
        uart_crc = ~0u;
        return false;
    }
    if (++uart_bytes < 4)
        return false;
    uart_bytes = 0;
    uint32_t word = uart_shift, place = uart_words++;
    if (place == 1)
        uart_length = word;
    if (place >= 1 && uart_length > PROTOCOL_MAX_PAYLOAD) {
        uart_in_frame = false;
        return false;
    }
    if (place < 2 || place < uart_length + 2) {
        uart_crc = crc_word(uart_crc, word);
        if (place < uart_room)
            uart_target[place] = word;
        return false;
    }
    uart_in_frame = false;
    return ~uart_crc == word;
}

// Takes bytes in until a frame is whole, for the next command or, while one is running, beside it.
static bool uart_poll(bool running)
{
    if (!uart_in_frame) {
        uart_target = running ? uart_urgent : uart_frame;
        uart_room = running ? URGENT_WORDS : sizeof uart_frame / sizeof uart_frame[0];
    }
    while (!uart_rxempty_read()) {
        uint8_t byte = (uint8_t)uart_rxtx_read();
        uart_ev_pending_write(2); // this, not the read, takes the byte out of the FIFO
        if (uart_feed(byte))
            return true;
    }
    return false;
}

static void uart_send(uint32_t type, const uint32_t *payload, uint32_t length)
{
    uart_put_word(PROTOCOL_SYNC);
    uint32_t crc = crc_word(crc_word(~0u, type), length);
    uart_put_word(type);
    uart_put_word(length);
    for (uint32_t i = 0; i < length; i++) {
        watchdog_feed();
        uart_put_word(payload[i]);
        crc = crc_word(crc, payload[i]);
    }
    uart_put_word(~crc);
}

void link_init(void)
{
    mailbox[MAILBOX_MAGIC] = 0; // the memory may have outlived a restart of the CPU
    mailbox[MAILBOX_COMMAND_SEQUENCE] = 0;
    mailbox[MAILBOX_COMMAND_TAKEN] = 0;
    mailbox[MAILBOX_EVENT_HEAD] = 0;
    mailbox[MAILBOX_EVENT_TAIL] = 0;
    mailbox[MAILBOX_CANCEL] = 0;
}

void link_open(const uint32_t restart[3])
{
    uart_send(EVENT_BOOT, restart, 3);
    mailbox[MAILBOX_VERSION] = PROTOCOL_VERSION;
    mailbox[MAILBOX_ISA_HASH] = tvu_id();
    for (uint32_t i = 0; i < 3; i++)
        mailbox[MAILBOX_RESTARTS + i] = restart[i];
    mailbox[MAILBOX_MAGIC] = MAILBOX_MAGIC_VALUE; // last: the host waits for it
}

bool link_poll(struct message *message)
{
    uint32_t sequence = mailbox[MAILBOX_COMMAND_SEQUENCE];
    if (sequence != mailbox[MAILBOX_COMMAND_TAKEN]) {
        command_sequence = sequence;
        uart_reply = false;
        message->type = mailbox[MAILBOX_COMMAND];
        message->length = mailbox[MAILBOX_COMMAND + 1];
        message->payload = mailbox + MAILBOX_COMMAND + 2;
        if (message->length > PROTOCOL_MAX_PAYLOAD)
            message->length = 0;
        return true;
    }
    if (uart_poll(false)) {
        if (uart_target != uart_frame) // begun while the last command ran: only CANCEL may be
            return false;
        uart_reply = true;
        uart_cancel = false;
        message->type = uart_frame[0];
        message->length = uart_frame[1];
        message->payload = uart_frame + 2;
        return message->type != COMMAND_CANCEL;
    }
    return false;
}

void link_release(void)
{
    if (!uart_reply)
        mailbox[MAILBOX_COMMAND_TAKEN] = command_sequence;
}

bool link_cancelled(void)
{
    if (!uart_reply)
        return mailbox[MAILBOX_CANCEL] == command_sequence;
    if (uart_poll(true) && uart_target == uart_urgent && uart_urgent[0] == COMMAND_CANCEL)
        uart_cancel = true;
    return uart_cancel;
}

void link_send(uint32_t type, const uint32_t *payload, uint32_t length)
{
    if (uart_reply) {
        uart_send(type, payload, length);
        return;
    }
    uint32_t head = mailbox[MAILBOX_EVENT_HEAD], start = cycles_low();
    while (head + length + 2 - mailbox[MAILBOX_EVENT_TAIL] > MAILBOX_RING_WORDS) {
        watchdog_feed();
        if (cycles_low() - start > GIVE_UP_CYCLES) {
            mailbox[MAILBOX_CANCEL] = command_sequence;
            return;
        }
    }
    volatile uint32_t *ring = mailbox + MAILBOX_RING;
    ring[head++ % MAILBOX_RING_WORDS] = type;
    ring[head++ % MAILBOX_RING_WORDS] = length;
    for (uint32_t i = 0; i < length; i++)
        ring[head++ % MAILBOX_RING_WORDS] = payload[i];
    mailbox[MAILBOX_EVENT_HEAD] = head;
}

void link_send1(uint32_t type, uint32_t word)
{
    link_send(type, &word, 1);
}

void link_error(uint32_t code, uint32_t detail)
{
    uint32_t words[2] = {code, detail};
    link_send(EVENT_ERROR, words, 2);
}

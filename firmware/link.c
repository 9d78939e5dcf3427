#include "link.h"

#include "board.h"
#include "uart.h"
#include <generated/tvu.h>

#define GIVE_UP_CYCLES 1250000000u // ten seconds without the host taking an event

static volatile uint32_t *const mailbox = (volatile uint32_t *)MAILBOX_BASE;
static uint32_t command_sequence;
static uint32_t answered; // number of the command that events are for
static bool deaf;         // the host takes no events

void link_init(void)
{
    // the memory may have outlived a restart of the CPU
    for (uint32_t i = 0; i < MAILBOX_COMMAND; i++)
        mailbox[i] = 0;
}

void link_open(const uint32_t restart[3])
{
    mailbox[MAILBOX_VERSION] = PROTOCOL_VERSION;
    mailbox[MAILBOX_ISA_HASH] = tvu_id();
    for (uint32_t i = 0; i < 3; i++)
        mailbox[MAILBOX_RESTARTS + i] = restart[i];
    mailbox[MAILBOX_MAGIC] = MAILBOX_MAGIC_VALUE; // last: the host waits for it
}

bool link_poll(struct message *message)
{
    uart_serve();
    uint32_t sequence = mailbox[MAILBOX_COMMAND_SEQUENCE];
    // an old number that comes again is no command
    if (sequence != mailbox[MAILBOX_COMMAND_TAKEN] + 1)
        return false;
    command_sequence = answered = sequence;
    deaf = false;
    message->sequence = sequence;
    message->type = mailbox[MAILBOX_COMMAND];
    message->length = mailbox[MAILBOX_COMMAND + 1];
    message->payload = mailbox + MAILBOX_COMMAND + 2;
    if (message->length > PROTOCOL_MAX_PAYLOAD)
        message->length = 0;
    return true;
}

void link_release(void)
{
    mailbox[MAILBOX_COMMAND_TAKEN] = command_sequence;
}

void link_doing(uint32_t command)
{
    mailbox[MAILBOX_DOING] = command;
    link_progress(0, 0);
}

void link_progress(uint32_t done, uint32_t total)
{
    mailbox[MAILBOX_DONE] = done;
    mailbox[MAILBOX_TOTAL] = total;
}

bool link_cancelled(uint32_t slot, uint32_t sequence)
{
    return deaf || mailbox[MAILBOX_CANCEL + slot] == sequence;
}

void link_answer(uint32_t sequence)
{
    answered = sequence;
}

uint32_t link_answered(void)
{
    return answered;
}

void link_send(uint32_t type, const uint32_t *payload, uint32_t length)
{
    uint32_t head = mailbox[MAILBOX_EVENT_HEAD], start = cycles_low();
    while (head + length + EVENT_HEAD_WORDS - mailbox[MAILBOX_EVENT_TAIL] > MAILBOX_RING_WORDS) {
        watchdog_feed();
        uart_serve();
        deaf |= cycles_low() - start > GIVE_UP_CYCLES;
        if (deaf)
            return;
    }
    volatile uint32_t *ring = mailbox + MAILBOX_RING;
    ring[head++ % MAILBOX_RING_WORDS] = type;
    ring[head++ % MAILBOX_RING_WORDS] = length;
    ring[head++ % MAILBOX_RING_WORDS] = answered;
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

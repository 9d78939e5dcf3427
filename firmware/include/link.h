// Messages between host and board, through the mailbox (Etherbone) or the UART.
#pragma once

#include <generated/protocol.h>
#include <stdbool.h>
#include <stdint.h>

struct message {
    uint32_t type;
    uint32_t length; // words of payload
    volatile const uint32_t *payload;
};

void link_init(void);
// Lets the host in: opens the mailbox, and tells whoever listens how often and why the firmware was restarted (EVENT_BOOT).
void link_open(const uint32_t restart[3]);

// Looks for a command; returns false if none has come. The payload stays valid until link_release.
bool link_poll(struct message *message);
void link_release(void);

// Sends an event to where the last command came from. Gives up when the host stops taking events.
void link_send(uint32_t type, const uint32_t *payload, uint32_t length);
void link_send1(uint32_t type, uint32_t word);
void link_error(uint32_t code, uint32_t detail);

// True once the host has asked to end the running command.
bool link_cancelled(void);

void uart_text(const char *text);
void uart_hex(uint32_t value);

// Commands and events, through the mailbox: memory that hosts reach over the network or, by way of
// uart.c, over UART.
#pragma once

#include <generated/protocol.h>
#include <stdbool.h>
#include <stdint.h>

struct message {
    uint32_t sequence; // its number
    uint32_t type;
    uint32_t length; // words of payload
    volatile const uint32_t *payload;
};

void link_init(void);
// Lets hosts in, and tells them how often and why the firmware was restarted.
void link_open(const uint32_t restart[3]);

// Looks for a command; returns false if none has come. The payload stays valid until link_release.
bool link_poll(struct message *message);
void link_release(void);

// What is being done, for whoever asks meanwhile: a command, or 0, and how far it is.
void link_doing(uint32_t command);
void link_progress(uint32_t done, uint32_t total);

// Events are for the command of that number from now on: for the one that was polled last, until
// somebody says otherwise.
void link_answer(uint32_t sequence);
// ... and who they are for now.
uint32_t link_answered(void);
// Sends an event to the host. Gives up when it stops taking events, which cancels everything.
void link_send(uint32_t type, const uint32_t *payload, uint32_t length);
void link_send1(uint32_t type, uint32_t word);
void link_error(uint32_t code, uint32_t detail);

// True once the host has asked to end the GENERATE of that number, or takes no events.
bool link_cancelled(uint32_t slot, uint32_t sequence);

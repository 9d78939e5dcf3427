// The UART: text for people, and datagrams (generated/datagram.h) as the network side does them in
// hardware.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Ends a claim that was made over UART before the firmware was restarted.
void uart_init(void);

void uart_text(const char *text);
void uart_hex(uint32_t value);

// Takes in what has come, and answers whole datagrams. To be called at least every 80 ms, after
// which the FIFO is full at 115,200 baud.
void uart_serve(void);

// Blocks of 4 KB of DDR that hosts may not write, on either link; none if both are equal.
void protect(uint32_t first, uint32_t end);

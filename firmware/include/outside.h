// What differs between boards whose UART and Ethernet are the fabric's (fabric.c) and those where
// they are the processing system's (ps/).
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Whether the UART can run at a rate, and setting it. line_drain waits until the last byte is out.
bool line_can(uint32_t baud);
void line_set(uint32_t baud);
void line_drain(void);

// The way of frames to the network side. Serving it looks after the link every tenth of a second,
// more often while there is none.
void ethernet_init(void);
void ethernet_serve(void);

// What is known of what lies around the SoC, by protocol.h's OUTSIDE_ fields.
void outside_tell(uint32_t *fields);

// What a host asks to find out what is wrong with a board: bitnet-host selftest. It works without a
// model, and if the vector unit failed its self-test.
#pragma once

#include "link.h"

// Streams memory past the product array, by some of the ports, and says what that took.
void diagnosis_stream(const struct message *m);
// What the ports read, without a way through memory.
void diagnosis_read(const struct message *m);
// The vector unit copies stream words, but for bytes of -128, which become -127.
void diagnosis_store(const struct message *m);
// The CPU writes a pattern and reads it again.
void diagnosis_memory(const struct message *m);
// Clock, link, ports: what the board has around the SoC.
void diagnosis_outside(void);

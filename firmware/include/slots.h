// Slots: conversations on the KV cache, each with its own position, prompt and answer. Those that
// have something to do share the passes over the weights, and come and go between any two.
#pragma once

#include "link.h"
#include <stdbool.h>
#include <stdint.h>

// Forgets all conversations.
void slots_reset(void);

// GENERATE, RESET and SCORE. They raise a fault if they are refused.
void slots_generate(const struct message *m);
void slots_keep(const struct message *m);
void slots_score(const struct message *m);

// Tokens of a slot's conversation.
uint32_t slots_position(uint32_t slot);

// Whether a slot has something to do.
bool slots_busy(void);
// One pass for those that have.
void slots_step(void);
// Ends all answers, as if they had been cancelled.
void slots_cancel(void);

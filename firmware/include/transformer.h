// The transformer: one forward pass per token, on the TVU.
#pragma once

#include <generated/protocol.h>
#include <stdbool.h>
#include <stdint.h>

extern uint32_t position;                        // tokens in the KV cache
extern uint64_t operator_cycles[OPERATOR_COUNT]; // where cycles went, since transformer_clear_cycles

struct logits {
    uint32_t best_bits; // float32 bits of the largest logit
    uint32_t best;      // its token
};

void transformer_clear_cycles(void);

// Appends a token to the KV cache. Without `logits` the output head is left out; `keep` also stores all logits in DDR.
// False if a fault was raised.
bool transformer_forward(uint32_t token, struct logits *logits, bool keep);

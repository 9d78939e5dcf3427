// The transformer: forward passes of one or several tokens, on the TVU.
#pragma once

#include <generated/protocol.h>
#include <stdbool.h>
#include <stdint.h>

extern uint32_t position; // tokens in the KV cache

// Where cycles went: the TVU's first counters, by operator.
extern uint64_t operator_counts[OPERATOR_COUNT][PARTS];
// Adds what was counted since the last call, or starts anew. To be called before a counter wraps:
// every 2^32 cycles.
void transformer_count(bool from_here);

// Read also what picking leaves out, to see what it saves.
extern bool transformer_all_rows, transformer_all_columns;

struct logits {
    uint32_t best;          // token of the largest logit, unless all were kept
    uint32_t count;         // logits in DDR
    uint32_t address;       // linear DDR address where they lie
    const uint32_t *tokens; // whose they are, in no order; null: of tokens 0, 1, ...
};

// HEAD_FULL computes all logits and keeps only the largest, HEAD_KEPT leaves all in DDR.
enum head { HEAD_NONE, HEAD_SCREENED, HEAD_FULL, HEAD_KEPT };

// Makes ready for the loaded model; the tokens that a pass can take, or 0 if a fault was raised.
uint32_t transformer_batch(void);
// Appends tokens, at most transformer_batch() of them, to the KV cache; the head is the last one's.
// False if a fault was raised.
bool transformer_forward(const volatile uint32_t *tokens, uint32_t count, enum head head,
                         struct logits *logits);

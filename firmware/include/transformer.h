// The transformer: forward passes of one or several tokens, on the TVU.
#pragma once

#include <generated/protocol.h>
#include <stdbool.h>
#include <stdint.h>

struct pages;

// A token of a pass: where it comes in its conversation, and where that has its keys and values.
struct input {
    uint32_t token, position;
    const struct pages *pages;
};

// Read also what picking leaves out, to see what it saves.
extern bool transformer_all_rows, transformer_all_columns;

struct logits {
    uint32_t best;          // token of the largest logit, unless all were kept
    uint32_t count;         // logits in DDR
    uint32_t address;       // linear DDR address where they lie
    const uint32_t *tokens; // whose they are, in no order; null: of tokens 0, 1, ...
};

// HEAD_FULL computes all logits and keeps only the largest, HEAD_KEPT leaves all in DDR.
enum head { HEAD_SCREENED, HEAD_FULL, HEAD_KEPT };

// Whether the loaded model's scratchpad suffices; raises a fault if not.
bool transformer_ready(void);
// The most tokens that a pass can take.
uint32_t transformer_most(void);
// Whether a pass can take so many tokens, of which the one that sees most sees `tokens`.
bool transformer_fits(uint32_t count, uint32_t tokens);
// Runs tokens through all layers; `profiled` is of profile_begin. False if a fault was raised;
// whether one was shows for sure once tvu_wait or a head has been waited for.
bool transformer_pass(const struct input *inputs, uint32_t count, uint32_t profiled);
// Begins the screened heads of several of the pass's tokens, a bit for each: the sketch is read
// once for all of them. Other heads come before this, as they use the rankings, too.
void transformer_rank(uint32_t places);
// The head of the pass's token number `place`; a screened one has begun. False if a fault was
// raised.
bool transformer_head(uint32_t place, enum head head, struct logits *logits);

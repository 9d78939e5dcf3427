// Drafts of what comes next, from the conversation's own text: what followed the last three tokens
// where they stood before. They go into the next pass behind the token that is known, and count as
// far as the model would have said them.
#pragma once

#include <stdint.h>

#define LOOKUP_MOST 6u // tokens of a draft

// Where the token at a position of a slot's conversation stands in DDR: those that are in the KV
// cache, and the one that comes next.
uint32_t lookup_address(uint32_t slot, uint32_t position);
// A slot's conversation has been cut back to so many tokens.
void lookup_keep(uint32_t slot, uint32_t tokens);
// The token at a position, behind those in the KV cache, is known.
void lookup_said(uint32_t slot, uint32_t position, uint32_t token);
// Up to `most` tokens that may follow the one at `position`, which was said last; returns how many.
// None while drafts do not pay.
uint32_t lookup_draft(uint32_t slot, uint32_t position, uint32_t most, uint32_t *tokens);
// What became of a draft, in a pass of so many cycles; one without a draft has none.
void lookup_tell(uint32_t slot, uint32_t drafted, uint32_t accepted, uint32_t spent);

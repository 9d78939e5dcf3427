// The output head.
#pragma once

#include "transformer.h"

// All logits in int8, of the final norm whose codes are in activation vector 0 and their factor in
// s[S_OUT]. `keep` leaves them in DDR at model.logits_base; without it only the best one is known,
// and the rankings are lost.
bool head_full(bool keep, struct logits *logits);
// Ranks the tokens by a ternary sketch, for the first `count` activation vectors, which hold final
// norms; their factors are in s[S_OUTS..]. The rankings were emptied before.
void head_rank(uint32_t count);
// The logits of the tokens that the sketch ranks highest for a vector, whose final norm is in row x
// and scale and factor in s[S_SCALES + vector], s[S_OUTS + vector]. They are left in DDR at
// model.candidates_base. Activation vectors and rows from plan.logits on are overwritten.
bool head_screened(uint32_t vector, uint32_t x, struct logits *logits);

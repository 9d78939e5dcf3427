// The output head. Called with the final norm in plan.t, its codes in activation vector 0 and their
// factor in s[S_OUT].
#pragma once

#include "transformer.h"

// All logits in int8. `keep` leaves them in DDR at model.logits_base; without it only the best one
// is known.
bool head_full(bool keep, struct logits *logits);
// Only those of the tokens that the ternary sketch ranks highest. They are left in DDR at
// model.candidates_base.
bool head_screened(struct logits *logits);

// The tokens with the largest logits; the host chooses among them
// (host/bitnet_host/run/sampling.py).
#pragma once

#include "transformer.h"

// Sends a CANDIDATES event with at most `most` tokens in falling order of their logits, equal ones
// by token.
void candidates_send(const struct logits *logits, uint32_t most);

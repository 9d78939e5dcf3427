// Choosing the next token from the logits in DDR.
#pragma once

#include "transformer.h"

struct sampling {
    float temperature; // above 0
    uint32_t top_k;    // 0: no limit but SAMPLE_CANDIDATES
    float top_p;       // above 0, at most 1
    uint32_t state;    // of the random generator; not 0
};

uint32_t sample(struct sampling *sampling, const struct logits *logits);

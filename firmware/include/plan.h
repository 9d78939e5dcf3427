// Where things stand in the TVU: scratchpad rows (generated/plan.h) and scalar registers.
#pragma once

#include "model.h"
#include "transformer.h"
#include <generated/plan.h>
#include <generated/tvu.h>

#define FENCE 1u // in a stream's address: it waits for the stores issued before it

extern struct plan plan;

// KV heads whose keys and values are put into the cache together: as many as there are registers
// for.
#define STORED_HEADS 5

// Scalar registers. 1 to 21 are scratch; the rest hold constants during a forward pass.
enum {
    S_A = 1,
    S_B = 2,
    S_SCALE = 3, // 127 / absmax of the queries quantised last
    S_OUT = 21,  // factor of an int8 product
    // Attention, until a layer's KV heads are done: 127 / absmax of values.
    S_V_SCALES = 4,
    // ... while keys are stored: maxima of keys and values, then what their codes are multiplied
    // with.
    S_K_MAXIMA = S_V_SCALES + STORED_HEADS,
    S_V_MAXIMA = S_K_MAXIMA + STORED_HEADS,
    // ... after that, in the same registers: four values each, one per query head of a KV head.
    S_MAXIMA = S_V_SCALES + STORED_HEADS,
    S_SUMS = S_MAXIMA + 4,
    S_FACTORS = S_SUMS + 4,
    // Outside of attention, one per token of the pass: 127 / absmax of what norm quantised, factor
    // of a matrix product.
    S_SCALES = 4,
    S_OUTS = S_SCALES + TVU_VECTORS,
    // ... and one per query or key head that is normed.
    S_FACTORS_OF_HEADS = S_OUTS,
    S_INV_127 = 22,
    S_SCORE = 23,
    S_INV_INTERMEDIATE = 24,
    S_INV_QUERY = 25,
    S_INV_HIDDEN = 26,
    S_EPS = 27,
    S_SMALLEST = 28, // 1e-5, the least absmax
    S_ONE = 30,
    S_127 = 31,
};
_Static_assert(S_V_MAXIMA + STORED_HEADS <= S_OUT && S_FACTORS + TVU_BYTE_VECTORS <= S_OUT &&
                   S_OUTS + TVU_VECTORS <= S_OUT,
               "registers overlap");

// Puts a token's keys and values, behind its queries at row qkv, into the cache of a layer and runs
// the layer's attention. The result goes where the queries are.
void attention(uint32_t layer, const struct input *input, uint32_t qkv);

// The MLP of a layer for `count` tokens of the pass, from codes of the norm before it to their
// residual vectors.
void mlp(uint32_t layer, uint32_t count);

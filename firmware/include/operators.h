// What the parts of a layer are made of.
#pragma once

#include "model.h"
#include <stdbool.h>

// What int8 codes are for.
enum codes { CODES_LATER, CODES_TERNARY, CODES_INT8, CODES_PICK };

void stream_tensor(enum image_kind kind, uint32_t layer);
// Int8 codes of n elements from row a on, times s[S_SCALES + place], for the token at `place` of
// the pass.
void quantise(uint32_t a, uint32_t n, uint32_t place, enum codes codes);
// RMSNorm of n elements from row a into row out, and its int8 codes; s[S_SCALES + place] is what
// they were scaled with.
void norm(enum image_kind kind, uint32_t layer, uint32_t a, uint32_t out, uint32_t n,
          uint32_t inverse, uint32_t place, enum codes codes);
// What o_proj or down_proj gets: the norm before it, where the model has one, and int8 codes.
void sub_norm(enum image_kind kind, uint32_t layer, uint32_t a, uint32_t out, uint32_t n,
              uint32_t inverse, uint32_t place, enum codes codes);

// A matrix times the codes of `count` tokens, `words` activation words each, into `rows` elements
// from scratchpad row dst on and `stride` rows further for each token; what is there is replaced,
// added to or multiplied with.
enum into { INTO_NEW, INTO_SUM, INTO_FACTOR };
void project(enum image_kind kind, uint32_t layer, uint32_t dst, uint32_t stride, uint32_t rows,
             uint32_t words, uint32_t count, enum into into);
// The same for the groups of weights from `at` on, in models whose scales are those of groups.
struct product {
    enum image_kind kind;
    uint32_t layer, dst, stride, rows, words, count;
    enum into into;
};
void project_groups(const struct product *p, uint32_t at);
// s[S_OUTS..] = weight scale / activation scale, for `count` tokens from `place` on.
void output_scales(enum image_kind kind, uint32_t layer, uint32_t place, uint32_t count);

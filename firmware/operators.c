#include "operators.h"

#include "plan.h"

void stream_tensor(enum image_kind kind, uint32_t layer)
{
    const struct tensor *tensor = model_tensor(kind, layer);
    tvu_stream(tensor->address, tensor->words);
}

void quantise(uint32_t a, uint32_t n, uint32_t place, enum codes codes)
{
    if (codes == CODES_PICK)
        tvu_pick(a, S_SCALES + place, n);
    else if (codes == CODES_INT8)
        tvu_quant8(place, a, S_SCALES + place, n);
    else if (model.weight_mode == TVU_MODE_BASE3)
        tvu_quant5(place, a, S_SCALES + place, n);
    else
        tvu_quant4(place, a, S_SCALES + place, n);
}

void norm(enum image_kind kind, uint32_t layer, uint32_t a, uint32_t out, uint32_t n,
          uint32_t inverse, uint32_t place, enum codes codes)
{
    stream_tensor(kind, layer);
    tvu_sumsq(a, n, S_A);
    tvu_smul(S_A, S_A, inverse);
    tvu_sadd(S_A, S_A, S_EPS);
    tvu_ssqrt(S_A, S_A);
    tvu_sdiv(S_A, S_ONE, S_A);
    tvu_mulm(out, a, S_A, n, S_B);
    tvu_smax(S_B, S_B, S_SMALLEST);
    tvu_sdiv(S_SCALES + place, S_127, S_B);
    if (codes != CODES_LATER)
        quantise(out, n, place, codes);
}

// As norm, of elements that have none.
static void codes_of(uint32_t a, uint32_t n, uint32_t place, enum codes codes)
{
    tvu_absmax(a, n, S_B);
    tvu_smax(S_B, S_B, S_SMALLEST);
    tvu_sdiv(S_SCALES + place, S_127, S_B);
    if (codes != CODES_LATER)
        quantise(a, n, place, codes);
}

void output_scales(enum image_kind kind, uint32_t layer, uint32_t place, uint32_t count)
{
    tvu_sset(S_A, model_tensor(kind, layer)->scale);
    tvu_rep(count, 0, 1, 0, 0, 0);
    tvu_sdiv(S_OUTS + place, S_A, S_SCALES + place);
}

void sub_norm(enum image_kind kind, uint32_t layer, uint32_t a, uint32_t out, uint32_t n,
              uint32_t inverse, uint32_t place, enum codes codes)
{
    if (model.sub_norms)
        norm(kind, layer, a, out, n, inverse, place, codes);
    else
        codes_of(a, n, place, codes);
}

#include "operators.h"

#include "plan.h"

void stream_tensor(enum image_kind kind, uint32_t layer)
{
    tvu_stream(model_tensor(kind, layer)->address, model_words[kind]);
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

static enum image_kind scales_of(enum image_kind kind)
{
    switch (kind) {
    case KIND_Q:
        return KIND_Q_SCALES;
    case KIND_K:
        return KIND_K_SCALES;
    case KIND_V:
        return KIND_V_SCALES;
    case KIND_O:
        return KIND_O_SCALES;
    case KIND_GATE:
        return KIND_GATE_SCALES;
    case KIND_UP:
        return KIND_UP_SCALES;
    default:
        return KIND_DOWN_SCALES;
    }
}

// What a row of results is put into: scratchpad row, and rows from one token's to the next's.
struct rows {
    uint32_t row, stride;
};

static void add_rows(struct rows to, struct rows other, uint32_t n, uint32_t count)
{
    tvu_rep(count, 0, 0, to.stride, to.stride, other.stride);
    tvu_addv(to.row, to.row, other.row, n, 0);
}

// n results from `row` on, of the groups from `at` on whose codes are in the activation memory.
static void project_part(const struct product *p, uint32_t at, uint32_t row, uint32_t n,
                         struct rows sums, bool add)
{
    const struct tensor *weights = model_tensor(p->kind, p->layer),
                        *scales = model_tensor(scales_of(p->kind), p->layer);
    const struct rows parts = {plan.parts, PLAN_PARTS};
    for (uint32_t word = 0; word < p->words; word++, add = true) {
        uint32_t place = (at + word) * p->rows + row;
        struct rows to = add ? parts : sums;
        tvu_stream(scales->address + 4 * place, n / TVU_LANES);
        tvu_stream(weights->address + TVU_WORD_BYTES * place, n);
        tvu_loadf(plan.factors, n, 0);
        tvu_epi(plan.factors, TVU_FACTOR_B, TVU_PICK_NONE, 0, word, 0);
        tvu_dot(to.row, 1, model.weight_mode, p->count - 1, 1, S_OUTS, to.stride, n);
        if (add)
            add_rows(sums, parts, n, p->count);
    }
}

void project_groups(const struct product *p, uint32_t at)
{
    for (uint32_t row = 0, n; row < p->rows; row += n) {
        struct rows out = {p->dst + row / TVU_LANES, p->stride}, sums = out;
        n = plan_smaller(p->rows - row, PLAN_PARTS * TVU_LANES);
        if (p->into == INTO_FACTOR)
            sums = (struct rows){plan.part_sums, PLAN_PARTS};
        project_part(p, at, row, n, sums, p->into == INTO_SUM);
        if (p->into == INTO_FACTOR) {
            tvu_rep(p->count, 0, 0, out.stride, out.stride, sums.stride);
            tvu_mulv(out.row, out.row, S_ONE, sums.row, n, 0);
        }
    }
}

void project(enum image_kind kind, uint32_t layer, uint32_t dst, uint32_t stride, uint32_t rows,
             uint32_t words, uint32_t count, enum into into)
{
    if (!model.group)
        stream_tensor(kind, layer);
    output_scales(kind, layer, 0, count);
    if (model.group) {
        struct product p = {kind, layer, dst, stride, rows, words, count, into};
        project_groups(&p, 0);
        return;
    }
    if (into == INTO_FACTOR)
        tvu_epi(0, TVU_FACTOR_DST, TVU_PICK_NONE, 0, 0, 0);
    if (into == INTO_SUM)
        tvu_dota(dst, words, model.weight_mode, count - 1, 1, S_OUTS, stride, rows);
    else
        tvu_dot(dst, words, model.weight_mode, count - 1, 1, S_OUTS, stride, rows);
}

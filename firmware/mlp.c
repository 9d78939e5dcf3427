// The MLP of a layer, for all tokens of a pass.
#include "operators.h"
#include "plan.h"
#include "profile.h"
#include "transformer.h"

// Where the residual vector of a token waits in DDR.
static uint32_t kept_residual(uint32_t token)
{
    return model.residual_base + token * model.hidden * 4;
}

// gate / (1 + e^-gate), piece by piece.
static void silu(uint32_t gate)
{
    uint32_t rows = plan.sigmoid_rows - 1;
    for (uint32_t at = 0; at < plan.gate_rows; at += rows) {
        uint32_t n = plan_smaller(rows, plan.gate_rows - at) * TVU_LANES, a = gate + at;
        uint32_t sigmoid = plan.sigmoid + ((plan.sigmoid ^ a ^ 1) & 1); // in the other bank
        tvu_sigmoid(sigmoid, a, n);
        tvu_muli(a, sigmoid, S_A, a, n, 0);
    }
}

// The MLP's inner vectors, relu(gate)^2 * up. For a single token, rows of up whose gate is not
// positive are not read: they count for nothing.
static void gate_up_relu2(uint32_t layer, uint32_t count)
{
    uint32_t rows = model.intermediate, words = plan.hidden_words, pick = count == 1;
    stream_tensor(KIND_GATE, layer);
    output_scales(KIND_GATE, layer, 0, count);
    tvu_epi(0, TVU_FACTOR_RELU2, pick ? TVU_PICK_MARK : TVU_PICK_NONE, 0, 0, 0);
    tvu_dot(plan.gate, words, model.weight_mode, count - 1, 1, S_OUTS, plan.gate_rows, rows);
    profile_step(STEP_UP_PROJ);
    if (pick)
        tvu_streamp(model_tensor(KIND_UP, layer)->address | transformer_all_rows, rows / TVU_LANES,
                    words);
    else
        stream_tensor(KIND_UP, layer);
    output_scales(KIND_UP, layer, 0, count);
    tvu_epi(0, TVU_FACTOR_DST, pick ? TVU_PICK_PICKED : TVU_PICK_NONE, 0, 0, 0);
    tvu_dot(plan.gate, words, model.weight_mode, count - 1, 1, S_OUTS, plan.gate_rows, rows);
}

// ... silu(gate) * up.
static void gate_up_silu(uint32_t layer, uint32_t count)
{
    uint32_t rows = model.intermediate, words = plan.hidden_words;
    project(KIND_GATE, layer, plan.gate, plan.gate_rows, rows, words, count, INTO_NEW);
    tvu_sset(S_A, TVU_FLOAT_SIGMOID_UNIT);
    for (uint32_t i = 0; i < count; i++)
        silu(plan.gate + i * plan.gate_rows);
    profile_step(STEP_UP_PROJ);
    project(KIND_UP, layer, plan.gate, plan.gate_rows, rows, words, count, INTO_FACTOR);
}

static void gate_up(uint32_t layer, uint32_t count)
{
    profile_step(STEP_GATE_PROJ);
    for (uint32_t i = plan.kept; i < count; i++)
        tvu_storef(kept_residual(i), plan.x + i * plan.x_rows, model.hidden);
    if (model.activation == IMAGE_RELU2)
        gate_up_relu2(layer, count);
    else
        gate_up_silu(layer, count);
}

// x += W . codes by rows of W for all tokens of the pass. The activation memory holds one chunk of
// the inner vectors at a time; sums of integers below 2^24 are exact in float32, so adding up
// chunks before scaling changes nothing.
static void down_chunks(uint32_t layer, uint32_t count)
{
    struct product p = {KIND_DOWN_ROWS, layer, plan.gate, plan.gate_rows,
                        model.hidden,   0,     count,     INTO_NEW};
    uint32_t step = plan.chunk_words * plan.per_word;
    uint32_t address = model_tensor(KIND_DOWN_ROWS, layer)->address;
    for (uint32_t start = 0; start < model.intermediate; start += step, p.into = INTO_SUM) {
        uint32_t n = plan_smaller(model.intermediate - start, step);
        p.words = plan_words(n, plan.per_word);
        profile_step(STEP_FFN_SUB_NORM);
        for (uint32_t i = 0; i < count; i++)
            quantise(plan.gate + i * plan.gate_rows + start / TVU_LANES, n, i, CODES_TERNARY);
        profile_step(STEP_DOWN_PROJ);
        if (model.group) {
            project_groups(&p, start / IMAGE_GROUP);
            continue;
        }
        tvu_stream(address, p.rows * p.words);
        if (start == 0)
            tvu_dot(p.dst, p.words, model.weight_mode, count - 1, 0, S_ONE, p.stride, p.rows);
        else
            tvu_dota(p.dst, p.words, model.weight_mode, count - 1, 0, S_ONE, p.stride, p.rows);
        address += p.rows * p.words * TVU_WORD_BYTES;
    }
}

static void down_all(uint32_t layer, uint32_t count)
{
    // DOWN's, where a model has it: one matrix has one scale
    output_scales(model.activation == IMAGE_RELU2 ? KIND_DOWN : KIND_DOWN_ROWS, layer, 0, count);
    down_chunks(layer, count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t x = plan.x + i * plan.x_rows, product = plan.gate + i * plan.gate_rows,
                 scale = model.group ? S_ONE : S_OUTS + i;
        if (i < plan.kept) {
            tvu_axpy(x, product, scale, x, model.hidden, 0);
        } else {
            tvu_stream(kept_residual(i) | FENCE, plan.x_rows);
            tvu_axpym(x, product, scale, model.hidden, 0);
        }
    }
}

// x += W . codes by columns of W; those whose code is zero are not read.
static void down(uint32_t layer, uint32_t place)
{
    tvu_streamp(model_tensor(KIND_DOWN, layer)->address | transformer_all_columns,
                model.intermediate / TVU_LANES, plan.hidden_words);
    output_scales(KIND_DOWN, layer, place, 1);
    tvu_cols(plan.x + place * plan.x_rows, plan.hidden_words, model.weight_mode, S_OUTS + place,
             model.hidden);
}

void mlp(uint32_t layer, uint32_t count)
{
    gate_up(layer, count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t gate = plan.gate + i * plan.gate_rows;
        profile_step(STEP_FFN_SUB_NORM);
        sub_norm(KIND_FFN_SUB_NORM, layer, gate, gate, model.intermediate, S_INV_INTERMEDIATE, i,
                 plan.down_rows ? CODES_LATER : CODES_PICK);
        if (plan.down_rows)
            continue;
        profile_step(STEP_DOWN_PROJ);
        down(layer, i);
    }
    if (plan.down_rows)
        down_all(layer, count);
}

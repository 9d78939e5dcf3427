// One forward pass: embedding, layers, head. The CPU queues TVU instructions; every inner loop is one of them.
#include "transformer.h"

#include "board.h"
#include "fault.h"
#include "head.h"
#include "plan.h"

#define LOGITS_CHUNK 8192u

struct plan plan;
uint32_t position;
uint64_t operator_counts[OPERATOR_COUNT][PARTS];
bool transformer_all_rows, transformer_all_columns;
static uint32_t seen[OPERATOR_COUNT][PARTS];

// What follows in the queue counts for an operator.
static void section(uint32_t operator)
{
    tvu_section(1 + operator);
}

void transformer_count(bool from_here)
{
    for (uint32_t i = 0; i < OPERATOR_COUNT; i++)
        for (uint32_t part = 0; part < PARTS; part++) {
            uint32_t now = tvu_counter(part, 1 + i);
            operator_counts[i][part] = from_here ? 0 : operator_counts[i][part] + (now - seen[i][part]);
            seen[i][part] = now;
        }
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint32_t even(uint32_t row)
{
    return row + (row & 1);
}

static uint32_t words_of(uint32_t columns, uint32_t per_word)
{
    return (columns + per_word - 1) / per_word;
}

// Lays out the scratchpad; host/bitnet_host/checkpoint/convert.py computes the same sum to refuse models early.
static bool plan_scratch(void)
{
    uint32_t group = model.heads / model.kv_heads, queries = model.heads * model.head_dim;
    uint32_t per_word = model.weight_mode == TVU_MODE_BASE3 ? 160 : 128;
    plan.ternary_mode = model.weight_mode;
    plan.head_rows = model.head_dim / TVU_LANES;
    plan.context_rows = even(words_of(model.context, TVU_LANES));
    plan.hidden_words = words_of(model.hidden, per_word);
    plan.query_words = words_of(queries, per_word);
    plan.intermediate_words = words_of(model.intermediate, per_word);
    plan.head_words = words_of(model.head_dim, TVU_WORD_BYTES);

    // Operands that are read together lie in different banks: one starts at an even, the other at an odd row.
    uint32_t rotated = (model.heads + model.kv_heads) * plan.head_rows;
    plan.x = 0;
    plan.t = plan.x + model.hidden / TVU_LANES;
    plan.rope = plan.t + larger(model.hidden, queries) / TVU_LANES + 1;
    plan.qkv = even(plan.rope + 2 * plan.head_rows);
    plan.scores = plan.qkv + (model.heads + 2 * model.kv_heads) * plan.head_rows;
    plan.cached = plan.scores + group * plan.context_rows + 1;
    plan.direct = plan.scores;
    plan.swapped = plan.direct + rotated + 1;
    plan.gate = plan.qkv;
    plan.logits = plan.qkv;
    uint32_t end = larger(plan.cached + plan.context_rows, plan.swapped + rotated);
    end = larger(end, plan.gate + model.intermediate / TVU_LANES);
    uint32_t widest = larger(larger(plan.hidden_words, plan.query_words), plan.intermediate_words);
    if (end > TVU_SCRATCH_ROWS || widest > TVU_ACT_WORDS || model.heads + model.kv_heads > 63) {
        fault_raise(ERROR_TOO_LARGE, end);
        return false;
    }
    plan.logits_chunk = (TVU_SCRATCH_ROWS - plan.logits) * TVU_LANES;
    if (plan.logits_chunk > LOGITS_CHUNK)
        plan.logits_chunk = LOGITS_CHUNK;
    return true;
}

static void set_constants(void)
{
    tvu_sset(S_127, 0x42fe0000);
    tvu_sset(S_ONE, 0x3f800000);
    tvu_sset(S_SMALLEST, 0x3727c5ac);
    tvu_sset(S_EPS, model.eps_bits);
    tvu_sset(S_INV_HIDDEN, model.inverse_hidden_bits);
    tvu_sset(S_INV_QUERY, model.inverse_query_bits);
    tvu_sset(S_INV_INTERMEDIATE, model.inverse_intermediate_bits);
    tvu_sset(S_INV_127, 0x3c010204);
    tvu_sset(S_SCORE, model.score_scale_bits);
}

static void stream_tensor(enum image_kind kind, uint32_t layer)
{
    const struct tensor *tensor = model_tensor(kind, layer);
    tvu_stream(tensor->address, tensor->words);
}

// What the int8 codes of a norm are for.
enum codes { CODES_TERNARY, CODES_INT8, CODES_PICK };

static void quantise(uint32_t a, uint32_t n, enum codes codes)
{
    if (codes == CODES_PICK)
        tvu_pick(a, S_SCALE, n);
    else if (codes == CODES_TERNARY && plan.ternary_mode == TVU_MODE_BASE3)
        tvu_quant5(0, a, S_SCALE, n);
    else
        tvu_quant4(0, a, S_SCALE, n);
}

// RMSNorm of n elements from row a into row out, and its int8 codes; s[S_SCALE] is what they were scaled with.
static void norm(enum image_kind kind, uint32_t layer, uint32_t a, uint32_t out, uint32_t n, uint32_t inverse, enum codes codes)
{
    stream_tensor(kind, layer);
    tvu_sumsq(a, n, S_A);
    tvu_smul(S_A, S_A, inverse);
    tvu_sadd(S_A, S_A, S_EPS);
    tvu_ssqrt(S_A, S_A);
    tvu_sdiv(S_A, S_ONE, S_A);
    tvu_mulm(out, a, S_A, n, S_B);
    tvu_smax(S_B, S_B, S_SMALLEST);
    tvu_sdiv(S_SCALE, S_127, S_B);
    quantise(out, n, codes);
}

// s[S_OUT] = weight scale / activation scale.
static void output_scale(enum image_kind kind, uint32_t layer)
{
    tvu_sset(S_OUT, model_tensor(kind, layer)->scale);
    tvu_sdiv(S_OUT, S_OUT, S_SCALE);
}

// dst = W . codes * (weight scale / activation scale), or added to dst.
static void project(enum image_kind kind, uint32_t layer, uint32_t dst, uint32_t rows, uint32_t words, bool add)
{
    stream_tensor(kind, layer);
    output_scale(kind, layer);
    if (add)
        tvu_dota(dst, words, plan.ternary_mode, 0, S_OUT, 0, 0, rows);
    else
        tvu_dot(dst, words, plan.ternary_mode, 0, S_OUT, 0, 0, rows);
}

static void embed(uint32_t token)
{
    tvu_stream(model_tensor(KIND_EMBEDDING, 0)->address + token * model.hidden, model.hidden / TVU_WORD_BYTES);
    tvu_stream(model_tensor(KIND_ROPE, 0)->address + position * 2 * model.head_dim * 4, model.head_dim / 4);
    tvu_sset(S_A, model_float_bits(KIND_EMBEDDING_SCALE, token));
    tvu_loadb(plan.x, S_A, model.hidden, 0);
    tvu_loadf(plan.rope, 2 * model.head_dim, 0);
}

// The MLP's inner vector, relu(gate)^2 * up. Rows of up whose gate is not positive are not read: they count for nothing.
static void gate_up(uint32_t layer)
{
    uint32_t rows = model.intermediate, words = plan.hidden_words;
    stream_tensor(KIND_GATE, layer);
    output_scale(KIND_GATE, layer);
    tvu_epi(0, TVU_FACTOR_RELU2, TVU_PICK_MARK, 0, 0);
    tvu_streamp(model_tensor(KIND_UP, layer)->address | transformer_all_rows, rows / TVU_LANES, words);
    tvu_dot(plan.gate, words, plan.ternary_mode, 0, S_OUT, 0, 0, rows);
    output_scale(KIND_UP, layer);
    tvu_epi(0, TVU_FACTOR_DST, TVU_PICK_PICKED, 0, 0);
    tvu_dot(plan.gate, words, plan.ternary_mode, 0, S_OUT, 0, 0, rows);
}

// x += W . codes by columns of W; those whose code is zero are not read.
static void down(uint32_t layer)
{
    tvu_streamp(model_tensor(KIND_DOWN, layer)->address | transformer_all_columns, model.intermediate / TVU_LANES, plan.hidden_words);
    output_scale(KIND_DOWN, layer);
    tvu_cols(plan.x, plan.hidden_words, plan.ternary_mode, S_OUT, model.hidden);
}

// x * cos + rotate_half(x) * sin for all query and key heads.
static void rotate(void)
{
    uint32_t heads = model.heads + model.kv_heads, rows = plan.head_rows, half = rows / 2, n = model.head_dim;
    uint32_t cosines = plan.rope, sines = plan.rope + rows;
    tvu_rep(heads, 0, 0, rows, rows, 0);
    tvu_mulv(plan.direct, plan.qkv, S_ONE, cosines, n, 0);
    tvu_rep(heads, 0, 0, rows, rows, 0);
    tvu_mulv(plan.swapped, plan.qkv + half, S_ONE, sines, n / 2, 0);
    tvu_rep(heads, 0, 0, rows, rows, 0);
    tvu_mulv(plan.swapped + half, plan.qkv, S_ONE, sines + half, n / 2, 0);
    tvu_addv(plan.qkv, plan.direct, plan.swapped, heads * n, 0);
}

static void run_layer(uint32_t layer)
{
    uint32_t queries = model.heads * model.head_dim, keys = model.kv_heads * model.head_dim;
    uint32_t k = plan.qkv + queries / TVU_LANES, v = k + keys / TVU_LANES;

    section(OPERATOR_NORM);
    norm(KIND_INPUT_NORM, layer, plan.x, plan.t, model.hidden, S_INV_HIDDEN, CODES_TERNARY);
    section(OPERATOR_QKV);
    project(KIND_Q, layer, plan.qkv, queries, plan.hidden_words, false);
    project(KIND_K, layer, k, keys, plan.hidden_words, false);
    project(KIND_V, layer, v, keys, plan.hidden_words, false);
    section(OPERATOR_ROPE);
    rotate();
    section(OPERATOR_ATTENTION);
    attention_store(layer, position);
    attention(layer, position);
    section(OPERATOR_NORM);
    norm(KIND_ATTN_SUB_NORM, layer, plan.t, plan.t, queries, S_INV_QUERY, CODES_TERNARY);
    section(OPERATOR_O_PROJ);
    project(KIND_O, layer, plan.x, model.hidden, plan.query_words, true);
    section(OPERATOR_NORM);
    norm(KIND_POST_NORM, layer, plan.x, plan.t, model.hidden, S_INV_HIDDEN, CODES_TERNARY);
    section(OPERATOR_GATE_UP);
    gate_up(layer);
    section(OPERATOR_ACTIVATION);
    norm(KIND_FFN_SUB_NORM, layer, plan.gate, plan.gate, model.intermediate, S_INV_INTERMEDIATE, CODES_PICK);
    section(OPERATOR_DOWN_PROJ);
    down(layer);
}

bool transformer_forward(uint32_t token, enum head head, struct logits *logits)
{
    if (!model_loaded) {
        fault_raise(ERROR_NO_MODEL, 0);
        return false;
    }
    if (token >= model.vocab || position >= model.context) {
        fault_raise(position >= model.context ? ERROR_CONTEXT : ERROR_ARGUMENT, position >= model.context ? model.context : token);
        return false;
    }
    if (!plan_scratch())
        return false;
    section(OPERATOR_EMBED);
    set_constants();
    embed(token);
    for (uint32_t layer = 0; layer < model.layers; layer++)
        run_layer(layer);
    position++;
    if (head != HEAD_NONE) {
        section(OPERATOR_HEAD);
        norm(KIND_FINAL_NORM, 0, plan.x, plan.t, model.hidden, S_INV_HIDDEN, head == HEAD_SCREENED ? CODES_TERNARY : CODES_INT8);
        tvu_sdiv(S_OUT, S_ONE, S_SCALE);
        if (!(head == HEAD_SCREENED ? head_screened(logits) : head_full(head == HEAD_KEPT, logits)))
            return false;
    }
    section(OPERATOR_SAMPLE);
    return head != HEAD_NONE || tvu_wait();
}

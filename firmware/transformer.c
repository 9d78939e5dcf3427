// One forward pass: embedding, layers, head. The CPU queues TVU instructions; every inner loop is one of them.
#include "transformer.h"

#include "board.h"
#include "fault.h"
#include "plan.h"

#define LOGITS_CHUNK 8192u

struct plan plan;
uint32_t position;
uint64_t operator_cycles[OPERATOR_COUNT];
static uint32_t section_start;

void transformer_clear_cycles(void)
{
    for (int i = 0; i < (int)OPERATOR_COUNT; i++)
        operator_cycles[i] = 0;
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
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
    plan.context_rows = words_of(model.context, TVU_LANES);
    plan.hidden_words = words_of(model.hidden, per_word);
    plan.query_words = words_of(queries, per_word);
    plan.intermediate_words = words_of(model.intermediate, per_word);
    plan.head_words = words_of(model.head_dim, TVU_WORD_BYTES);

    plan.x = 0;
    plan.t = plan.x + model.hidden / TVU_LANES;
    plan.rope = plan.t + larger(model.hidden, queries) / TVU_LANES;
    plan.qkv = plan.rope + 2 * plan.head_rows;
    plan.scores = plan.qkv + (model.heads + 2 * model.kv_heads) * plan.head_rows;
    plan.cached = plan.scores + group * plan.context_rows;
    plan.gate = plan.qkv;
    plan.up = plan.gate + model.intermediate / TVU_LANES;
    plan.logits = plan.qkv;
    uint32_t rotated = 2 * (model.heads + model.kv_heads) * plan.head_rows;
    uint32_t end = plan.scores + larger((group + 1) * plan.context_rows, rotated);
    end = larger(end, plan.up + model.intermediate / TVU_LANES);
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
    tvu_sset(S_MINUS_ONE, 0xbf800000);
    tvu_sset(S_SMALLEST, 0x3727c5ac);
    tvu_sset(S_EPS, model.eps_bits);
    tvu_sset(S_INV_HIDDEN, model.inverse_hidden_bits);
    tvu_sset(S_INV_QUERY, model.inverse_query_bits);
    tvu_sset(S_INV_INTERMEDIATE, model.inverse_intermediate_bits);
    tvu_sset(S_SCORE, model.score_scale_bits);
}

// Ends a section of the pass: waits for the TVU and books the cycles.
static bool section(uint32_t operator)
{
    bool good = tvu_wait();
    uint32_t now = cycles_low();
    operator_cycles[operator] += now - section_start;
    section_start = now;
    return good;
}

static void stream_tensor(enum image_kind kind, uint32_t layer)
{
    const struct tensor *tensor = model_tensor(kind, layer);
    tvu_stream(tensor->address, tensor->words);
}

// RMSNorm of n elements from row a into plan.t, and its int8 codes into activation vector 0.
static void norm(enum image_kind kind, uint32_t layer, uint32_t a, uint32_t n, uint32_t inverse, bool for_int8)
{
    stream_tensor(kind, layer);
    tvu_sumsq(a, n, S_A);
    tvu_smul(S_A, S_A, inverse);
    tvu_sadd(S_A, S_A, S_EPS);
    tvu_ssqrt(S_A, S_A);
    tvu_sdiv(S_A, S_ONE, S_A);
    uint32_t out = kind == KIND_FFN_SUB_NORM ? a : plan.t; // the MLP's vector is too long for t
    tvu_muls(out, a, S_A, n, 0);
    tvu_mulm(out, out, n, S_B);
    tvu_smax(S_B, S_B, S_SMALLEST);
    tvu_sdiv(S_SCALE, S_127, S_B);
    if (plan.ternary_mode == TVU_MODE_BASE3 && !for_int8)
        tvu_quant5(0, out, S_SCALE, n);
    else
        tvu_quant4(0, out, S_SCALE, n);
}

// dst = W . codes * (weight scale / activation scale), or added to dst.
static void project(enum image_kind kind, uint32_t layer, uint32_t dst, uint32_t rows, uint32_t words, bool add)
{
    stream_tensor(kind, layer);
    tvu_sset(S_OUT, model_tensor(kind, layer)->scale);
    tvu_sdiv(S_OUT, S_OUT, S_SCALE);
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

// x * cos + rotate_half(x) * sin for all query and key heads.
static void rotate(void)
{
    uint32_t heads = model.heads + model.kv_heads, rows = plan.head_rows, half = rows / 2, n = model.head_dim;
    uint32_t cosines = plan.rope, sines = plan.rope + rows;
    uint32_t direct = plan.scores, swapped = plan.scores + heads * rows;
    tvu_rep(heads, 0, 0, rows, rows, 0);
    tvu_mulv(direct, plan.qkv, cosines, n, 0);
    tvu_rep(heads, 0, 0, rows, rows, 0);
    tvu_mulv(swapped, plan.qkv + half, sines, n / 2, 0);
    tvu_rep(heads, 0, 0, rows, rows, 0);
    tvu_mulv(swapped + half, plan.qkv, sines + half, n / 2, 0);
    tvu_addv(plan.qkv, direct, swapped, heads * n, 0);
}

static bool run_layer(uint32_t layer)
{
    uint32_t queries = model.heads * model.head_dim, keys = model.kv_heads * model.head_dim;
    uint32_t k = plan.qkv + queries / TVU_LANES, v = k + keys / TVU_LANES;

    norm(KIND_INPUT_NORM, layer, plan.x, model.hidden, S_INV_HIDDEN, false);
    if (!section(OPERATOR_NORM))
        return false;
    project(KIND_Q, layer, plan.qkv, queries, plan.hidden_words, false);
    project(KIND_K, layer, k, keys, plan.hidden_words, false);
    project(KIND_V, layer, v, keys, plan.hidden_words, false);
    if (!section(OPERATOR_QKV))
        return false;
    rotate();
    if (!section(OPERATOR_ROPE))
        return false;
    attention(layer, position);
    if (!section(OPERATOR_ATTENTION))
        return false;
    norm(KIND_ATTN_SUB_NORM, layer, plan.t, queries, S_INV_QUERY, false);
    if (!section(OPERATOR_NORM))
        return false;
    project(KIND_O, layer, plan.x, model.hidden, plan.query_words, true);
    if (!section(OPERATOR_O_PROJ))
        return false;

    norm(KIND_POST_NORM, layer, plan.x, model.hidden, S_INV_HIDDEN, false);
    if (!section(OPERATOR_NORM))
        return false;
    project(KIND_GATE, layer, plan.gate, model.intermediate, plan.hidden_words, false);
    project(KIND_UP, layer, plan.up, model.intermediate, plan.hidden_words, false);
    if (!section(OPERATOR_GATE_UP))
        return false;
    tvu_sqrelu(plan.gate, plan.gate, model.intermediate, 0);
    tvu_mulv(plan.gate, plan.gate, plan.up, model.intermediate, 0);
    norm(KIND_FFN_SUB_NORM, layer, plan.gate, model.intermediate, S_INV_INTERMEDIATE, false);
    if (!section(OPERATOR_ACTIVATION))
        return false;
    project(KIND_DOWN, layer, plan.x, model.hidden, plan.intermediate_words, true);
    return section(OPERATOR_DOWN_PROJ);
}

// Unsigned key in the order of the float32 values.
static uint32_t float_key(uint32_t bits)
{
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

static bool head(struct logits *logits, bool keep)
{
    const struct tensor *rows = model_tensor(KIND_EMBEDDING, 0), *scales = model_tensor(KIND_EMBEDDING_SCALE, 0);
    uint32_t words = model.hidden / TVU_WORD_BYTES;
    norm(KIND_FINAL_NORM, 0, plan.x, model.hidden, S_INV_HIDDEN, true);
    tvu_sdiv(S_OUT, S_ONE, S_SCALE);
    for (uint32_t start = 0; start < model.vocab; start += plan.logits_chunk) {
        uint32_t n = model.vocab - start < plan.logits_chunk ? model.vocab - start : plan.logits_chunk;
        tvu_stream(rows->address + start * model.hidden, n * words);
        tvu_stream(scales->address + 4 * start, n / TVU_LANES);
        tvu_dot(plan.logits, words, TVU_MODE_INT8, 0, S_OUT, 0, 0, n);
        tvu_mulm(plan.logits, plan.logits, n, 0);
        tvu_argmax(plan.logits, n, S_BEST);
        if (keep)
            tvu_storef(model.logits_base + 4 * start, plan.logits, n);
        if (!tvu_wait())
            return false;
        uint32_t bits = tvu_sget(S_BEST);
        if (start == 0 || float_key(bits) > float_key(logits->best_bits)) {
            logits->best_bits = bits;
            logits->best = start + tvu_sget(S_BEST + 1);
        }
    }
    return section(OPERATOR_HEAD);
}

bool transformer_forward(uint32_t token, struct logits *logits, bool keep)
{
    if (!model_loaded) {
        fault_raise(ERROR_NO_MODEL, 0);
        return false;
    }
    if (token >= model.vocab || position >= model.context) {
        fault_raise(position >= model.context ? ERROR_CONTEXT : ERROR_ARGUMENT, position >= model.context ? model.context : token);
        return false;
    }
    if (position == 0 && !plan_scratch())
        return false;
    section_start = cycles_low();
    set_constants();
    embed(token);
    if (!section(OPERATOR_EMBED))
        return false;
    for (uint32_t layer = 0; layer < model.layers; layer++)
        if (!run_layer(layer))
            return false;
    position++;
    return !logits || head(logits, keep);
}

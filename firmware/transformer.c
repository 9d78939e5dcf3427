// One forward pass: embedding, layers, head. The CPU queues TVU instructions; every inner loop is
// one of them.
#include "transformer.h"

#include "board.h"
#include "fault.h"
#include "head.h"
#include "link.h"
#include "pages.h"
#include "plan.h"
#include "profile.h"

#define LOGITS_CHUNK 8192u

#define LAID_TOKENS 64u // a pass is laid out for the next multiple

struct plan plan;
static uint32_t laid;   // tokens that plan is for
static uint32_t ranked; // places of the pass whose screened heads have begun, a bit for each
bool transformer_all_rows, transformer_all_columns;

// Lays out the scratchpad for a pass; returns the rows it takes.
static uint32_t lay(uint32_t count, uint32_t tokens)
{
    tokens = (tokens + LAID_TOKENS - 1) / LAID_TOKENS * LAID_TOKENS;
    if (plan.batch != count || (count > 1 && laid != tokens)) {
        laid = tokens;
        plan_lay(&plan, &model, count, tokens, model_tensor(KIND_DOWN_ROWS, 0)->words != 0);
    }
    return plan.end;
}

bool transformer_ready(void)
{
    plan.batch = 0; // of another model
    if (lay(1, 1) > TVU_SCRATCH_ROWS)
        fault_raise(ERROR_TOO_LARGE, plan.end);
    return !fault_pending();
}

uint32_t transformer_most(void)
{
    return plan_larger(plan.hidden_words, plan.query_words) > TVU_SHARED_WORDS ? TVU_BYTE_VECTORS
                                                                               : TVU_VECTORS;
}

bool transformer_fits(uint32_t count, uint32_t tokens)
{
    return count <= transformer_most() && lay(count, tokens) <= TVU_SCRATCH_ROWS;
}

static void set_constants(void)
{
    tvu_sset(S_127, TVU_FLOAT_MAX_CODE);
    tvu_sset(S_ONE, TVU_FLOAT_ONE);
    tvu_sset(S_SMALLEST, TVU_FLOAT_SMALLEST);
    tvu_sset(S_EPS, model.eps_bits);
    tvu_sset(S_INV_HIDDEN, model.inverse_hidden_bits);
    tvu_sset(S_INV_QUERY, model.inverse_query_bits);
    tvu_sset(S_INV_INTERMEDIATE, model.inverse_intermediate_bits);
    tvu_sset(S_INV_127, TVU_FLOAT_MAX_CODE_INVERSE);
    tvu_sset(S_SCORE, model.score_scale_bits);
}

static void stream_tensor(enum image_kind kind, uint32_t layer)
{
    const struct tensor *tensor = model_tensor(kind, layer);
    tvu_stream(tensor->address, tensor->words);
}

// What the int8 codes of a norm are for.
enum codes { CODES_LATER, CODES_TERNARY, CODES_INT8, CODES_PICK };

static void quantise(uint32_t a, uint32_t n, uint32_t place, enum codes codes)
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

// RMSNorm of n elements from row a into row out, and its int8 codes for the token at `place` of the
// pass; s[S_SCALES + place] is what they were scaled with.
static void norm(enum image_kind kind, uint32_t layer, uint32_t a, uint32_t out, uint32_t n,
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

// s[S_OUTS..] = weight scale / activation scale, for `count` tokens from `place` on.
static void output_scales(enum image_kind kind, uint32_t layer, uint32_t place, uint32_t count)
{
    tvu_sset(S_A, model_tensor(kind, layer)->scale);
    tvu_rep(count, 0, 1, 0, 0, 0);
    tvu_sdiv(S_OUTS + place, S_A, S_SCALES + place);
}

// For all tokens of the pass: dst = W . codes * (weight scale / activation scale), or added to dst.
static void project(enum image_kind kind, uint32_t layer, uint32_t dst, uint32_t stride,
                    uint32_t rows, uint32_t words, uint32_t count, bool add)
{
    stream_tensor(kind, layer);
    output_scales(kind, layer, 0, count);
    if (add)
        tvu_dota(dst, words, model.weight_mode, count - 1, 1, S_OUTS, stride, rows);
    else
        tvu_dot(dst, words, model.weight_mode, count - 1, 1, S_OUTS, stride, rows);
}

static void embed(uint32_t token, uint32_t x)
{
    tvu_stream(model_tensor(KIND_EMBEDDING, 0)->address + token * model.hidden,
               model.hidden / TVU_WORD_BYTES);
    tvu_sset(S_A, model_float_bits(KIND_EMBEDDING_SCALE, token));
    tvu_loadb(x, S_A, model.hidden, 0);
}

// Where the residual vector of a token waits in DDR.
static uint32_t kept_residual(uint32_t token)
{
    return model.residual_base + token * model.hidden * 4;
}

// The MLP's inner vectors, relu(gate)^2 * up. For a single token, rows of up whose gate is not
// positive are not read: they count for nothing.
static void gate_up(uint32_t layer, uint32_t count)
{
    uint32_t rows = model.intermediate, words = plan.hidden_words, pick = count == 1;
    profile_step(STEP_GATE_PROJ);
    stream_tensor(KIND_GATE, layer);
    output_scales(KIND_GATE, layer, 0, count);
    for (uint32_t i = plan.kept; i < count; i++)
        tvu_storef(kept_residual(i), plan.x + i * plan.x_rows, model.hidden);
    tvu_epi(0, TVU_FACTOR_RELU2, pick ? TVU_PICK_MARK : TVU_PICK_NONE, 0, 0);
    tvu_dot(plan.gate, words, model.weight_mode, count - 1, 1, S_OUTS, plan.gate_rows, rows);
    profile_step(STEP_UP_PROJ);
    if (pick)
        tvu_streamp(model_tensor(KIND_UP, layer)->address | transformer_all_rows, rows / TVU_LANES,
                    words);
    else
        stream_tensor(KIND_UP, layer);
    output_scales(KIND_UP, layer, 0, count);
    tvu_epi(0, TVU_FACTOR_DST, pick ? TVU_PICK_PICKED : TVU_PICK_NONE, 0, 0);
    tvu_dot(plan.gate, words, model.weight_mode, count - 1, 1, S_OUTS, plan.gate_rows, rows);
}

// x += W . codes by rows of W for all tokens of the pass. The activation memory holds one chunk of
// the inner vectors at a time; sums of integers below 2^24 are exact in float32, so adding up
// chunks before scaling changes nothing.
static void down_all(uint32_t layer, uint32_t count)
{
    uint32_t step = TVU_SHARED_WORDS * plan.per_word;
    uint32_t address = model_tensor(KIND_DOWN_ROWS, layer)->address;
    for (uint32_t start = 0; start < model.intermediate; start += step) {
        uint32_t n = model.intermediate - start < step ? model.intermediate - start : step,
                 words = plan_words(n, plan.per_word);
        profile_step(STEP_FFN_SUB_NORM);
        for (uint32_t i = 0; i < count; i++)
            quantise(plan.gate + i * plan.gate_rows + start / TVU_LANES, n, i, CODES_TERNARY);
        profile_step(STEP_DOWN_PROJ);
        tvu_stream(address, model.hidden * words);
        if (start == 0)
            tvu_dot(plan.gate, words, model.weight_mode, count - 1, 0, S_ONE, plan.gate_rows,
                    model.hidden);
        else
            tvu_dota(plan.gate, words, model.weight_mode, count - 1, 0, S_ONE, plan.gate_rows,
                     model.hidden);
        address += model.hidden * words * TVU_WORD_BYTES;
    }
    output_scales(KIND_DOWN, layer, 0, count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t x = plan.x + i * plan.x_rows, product = plan.gate + i * plan.gate_rows;
        if (i < plan.kept) {
            tvu_axpy(x, product, S_OUTS + i, x, model.hidden, 0);
        } else {
            tvu_stream(kept_residual(i) | FENCE, plan.x_rows);
            tvu_axpym(x, product, S_OUTS + i, model.hidden, 0);
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

// Cosines and sines of a position.
static void load_rope(uint32_t at)
{
    tvu_stream(model_tensor(KIND_ROPE, 0)->address + at * 2 * model.head_dim * 4,
               model.head_dim / 4);
    tvu_loadf(plan.rope, 2 * model.head_dim, 0);
}

// x * cos + rotate_half(x) * sin for all query and key heads from row qkv on.
static void rotate(uint32_t qkv)
{
    uint32_t heads = model.heads + model.kv_heads, rows = plan.head_rows, half = rows / 2,
             n = model.head_dim;
    uint32_t cosines = plan.rope, sines = plan.rope + rows;
    tvu_rep(heads, 0, 0, rows, rows, 0);
    tvu_mulv(plan.direct, qkv, S_ONE, cosines, n, 0);
    tvu_rep(heads, 0, 0, rows, rows, 0);
    tvu_mulv(plan.swapped, qkv + half, S_ONE, sines, n / 2, 0);
    tvu_rep(heads, 0, 0, rows, rows, 0);
    tvu_mulv(plan.swapped + half, qkv, S_ONE, sines + half, n / 2, 0);
    tvu_addv(qkv, plan.direct, plan.swapped, heads * n, 0);
}

static void run_layer(uint32_t layer, const struct input *inputs, uint32_t count)
{
    uint32_t queries = model.heads * model.head_dim, keys = model.kv_heads * model.head_dim;
    uint32_t k = plan.qkv + queries / TVU_LANES, v = k + keys / TVU_LANES;

    profile_step(STEP_INPUT_NORM);
    for (uint32_t i = 0; i < count; i++)
        norm(KIND_INPUT_NORM, layer, plan.x + i * plan.x_rows, plan.t, model.hidden, S_INV_HIDDEN,
             i, CODES_TERNARY);
    profile_step(STEP_Q_PROJ);
    project(KIND_Q, layer, plan.qkv, plan.qkv_rows, queries, plan.hidden_words, count, false);
    profile_step(STEP_K_PROJ);
    project(KIND_K, layer, k, plan.qkv_rows, keys, plan.hidden_words, count, false);
    profile_step(STEP_V_PROJ);
    project(KIND_V, layer, v, plan.qkv_rows, keys, plan.hidden_words, count, false);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t qkv = plan.qkv + i * plan.qkv_rows;
        profile_step(STEP_ROPE);
        if (layer == 0 || count > 1)
            load_rope(inputs[i].position);
        rotate(qkv);
        profile_step(STEP_ATTENTION);
        attention(layer, &inputs[i], qkv);
    }
    profile_step(STEP_ATTN_SUB_NORM);
    for (uint32_t i = 0; i < count; i++)
        norm(KIND_ATTN_SUB_NORM, layer, plan.qkv + i * plan.qkv_rows, plan.t, queries, S_INV_QUERY,
             i, CODES_TERNARY);
    profile_step(STEP_O_PROJ);
    project(KIND_O, layer, plan.x, plan.x_rows, model.hidden, plan.query_words, count, true);
    profile_step(STEP_POST_NORM);
    for (uint32_t i = 0; i < count; i++)
        norm(KIND_POST_NORM, layer, plan.x + i * plan.x_rows, plan.t, model.hidden, S_INV_HIDDEN, i,
             CODES_TERNARY);
    gate_up(layer, count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t gate = plan.gate + i * plan.gate_rows;
        profile_step(STEP_FFN_SUB_NORM);
        norm(KIND_FFN_SUB_NORM, layer, gate, gate, model.intermediate, S_INV_INTERMEDIATE, i,
             plan.down_rows ? CODES_LATER : CODES_PICK);
        if (plan.down_rows)
            continue;
        profile_step(STEP_DOWN_PROJ);
        down(layer, i);
    }
    if (plan.down_rows)
        down_all(layer, count);
}

bool transformer_pass(const struct input *inputs, uint32_t count, uint32_t profiled)
{
    uint32_t tokens = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (inputs[i].token >= model.vocab)
            fault_raise(ERROR_ARGUMENT, inputs[i].token);
        tokens = plan_larger(tokens, inputs[i].position + 1);
    }
    if (fault_pending() || ((count > 1 || plan.batch != 1) && !transformer_fits(count, tokens)))
        return false;
    if (!profile_begin(profiled))
        return false;
    profile_step(STEP_EMBED);
    set_constants();
    for (uint32_t i = 0; i < count; i++)
        embed(inputs[i].token, plan.x + i * plan.x_rows);
    if (!profile_stage(0))
        return false;
    for (uint32_t layer = 0; layer < model.layers; layer++) {
        watchdog_feed();
        link_progress(layer, model.layers); // for hosts that wait for the end of the pass
        run_layer(layer, inputs, count);
        if (!profile_stage(1 + layer))
            return false;
    }
    profile_step(STEP_SAMPLE);
    return true;
}

static void final_norm(uint32_t place, uint32_t out, uint32_t vector, enum codes codes)
{
    norm(KIND_FINAL_NORM, 0, plan.x + place * plan.x_rows, out, model.hidden, S_INV_HIDDEN, vector,
         codes);
}

void transformer_rank(uint32_t places)
{
    uint32_t count = 0;
    ranked = places;
    tvu_rank(model.rank_levels);
    profile_step(STEP_FINAL_NORM);
    for (uint32_t place = 0; places >> place; place++)
        if (places >> place & 1)
            final_norm(place, plan.x + place * plan.x_rows, count++, CODES_TERNARY);
    profile_step(STEP_HEAD);
    tvu_rep(count, 0, 1, 0, 0, 0);
    tvu_sdiv(S_OUTS, S_ONE, S_SCALES);
    head_rank(count);
    profile_step(STEP_SAMPLE);
}

bool transformer_head(uint32_t place, enum head head, struct logits *logits)
{
    bool done;
    if (head == HEAD_SCREENED) {
        uint32_t vector = 0;
        for (uint32_t i = 0; i < place; i++)
            vector += ranked >> i & 1;
        profile_step(STEP_HEAD);
        done = head_screened(vector, plan.x + place * plan.x_rows, logits);
    } else {
        profile_step(STEP_FINAL_NORM);
        final_norm(place, plan.t, 0, CODES_INT8);
        profile_step(STEP_HEAD);
        tvu_sdiv(S_OUT, S_ONE, S_SCALES);
        done = head_full(head == HEAD_KEPT, logits);
    }
    profile_step(STEP_SAMPLE);
    return done;
}

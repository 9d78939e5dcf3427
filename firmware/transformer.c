// One forward pass: embedding, layers, head. The CPU queues TVU instructions; every inner loop is
// one of them.
#include "transformer.h"

#include "board.h"
#include "fault.h"
#include "head.h"
#include "link.h"
#include "operators.h"
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
        plan_lay(&plan, &model, count, tokens, model_tensor(KIND_DOWN_ROWS, 0)->address != 0);
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
    return plan.chunk_words > TVU_SHARED_WORDS ? TVU_BYTE_VECTORS : TVU_VECTORS;
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

static void embed(uint32_t token, uint32_t x)
{
    tvu_stream(model_tensor(KIND_EMBEDDING, 0)->address + token * model.hidden,
               model.hidden / TVU_WORD_BYTES);
    tvu_sset(S_A, model_float_bits(KIND_EMBEDDING_SCALE, token));
    tvu_loadb(x, S_A, model.hidden, 0);
}

// Cosines and sines of a position.
static void load_rope(uint32_t at)
{
    tvu_stream(model_tensor(KIND_ROPE, 0)->address + at * 2 * model.head_dim * 4,
               model.head_dim / 4);
    tvu_loadf(plan.rope, 2 * model.head_dim, 0);
}

// RMSNorm of each of `heads` heads from row a on, with the weights in row `weights`.
static void norm_heads(uint32_t a, uint32_t heads, uint32_t weights)
{
    uint32_t rows = plan.head_rows, n = model.head_dim;
    tvu_sset(S_A, model.inverse_head_bits);
    for (uint32_t count; heads; heads -= count, a += count * rows) {
        count = plan_smaller(heads, TVU_VECTORS);
        tvu_rep(count, 0, 1, 0, rows, 0);
        tvu_sumsq(a, n, S_FACTORS_OF_HEADS);
        tvu_rep(count, 1, 0, 0, 0, 0);
        tvu_smul(S_FACTORS_OF_HEADS, S_FACTORS_OF_HEADS, S_A);
        tvu_rep(count, 1, 0, 0, 0, 0);
        tvu_sadd(S_FACTORS_OF_HEADS, S_FACTORS_OF_HEADS, S_EPS);
        tvu_rep(count, 1, 0, 0, 0, 0);
        tvu_ssqrt(S_FACTORS_OF_HEADS, S_FACTORS_OF_HEADS);
        tvu_rep(count, 0, 1, 0, 0, 0);
        tvu_sdiv(S_FACTORS_OF_HEADS, S_ONE, S_FACTORS_OF_HEADS);
        tvu_rep(count, 1, 0, rows, rows, 0);
        tvu_mulv(a, a, S_FACTORS_OF_HEADS, weights, n, 0);
    }
}

// x * cos + rotate_half(x) * sin for all query and key heads from row qkv on.
static void rotate(uint32_t qkv)
{
    uint32_t heads = model.heads + model.kv_heads, rows = plan.head_rows, half = rows / 2,
             n = model.head_dim;
    uint32_t cosines = plan.rope, sines = plan.rope + rows;
    for (uint32_t first = 0, count; first < heads; first += count) {
        uint32_t x = qkv + first * rows, swapped = plan.swapped + first * rows;
        count = plan_smaller(heads - first, TVU_RUNS);
        tvu_rep(count, 0, 0, rows, rows, 0);
        tvu_mulv(plan.direct + first * rows, x, S_ONE, cosines, n, 0);
        tvu_rep(count, 0, 0, rows, rows, 0);
        tvu_mulv(swapped, x + half, S_ONE, sines, n / 2, 0);
        tvu_rep(count, 0, 0, rows, rows, 0);
        tvu_mulv(swapped + half, x, S_ONE, sines + half, n / 2, 0);
    }
    tvu_addv(qkv, plan.direct, plan.swapped, heads * n, 0);
}

// Queries and keys of the layer, normed if the model does that, turned by their position.
static void place_heads(uint32_t layer, uint32_t qkv, uint32_t position, bool load)
{
    if (model.qk_norms) {
        stream_tensor(KIND_Q_NORM, layer);
        tvu_loadf(plan.t, model.head_dim, 0);
        stream_tensor(KIND_K_NORM, layer);
        tvu_loadf(plan.t + plan.head_rows, model.head_dim, 0);
        norm_heads(qkv, model.heads, plan.t);
        norm_heads(qkv + model.heads * plan.head_rows, model.kv_heads, plan.t + plan.head_rows);
    }
    if (load)
        load_rope(position);
    rotate(qkv);
}

static void run_layer(uint32_t layer, const struct input *inputs, uint32_t count)
{
    uint32_t queries = model.heads * model.head_dim, keys = model.kv_heads * model.head_dim,
             words = plan.hidden_words;
    uint32_t k = plan.qkv + queries / TVU_LANES, v = k + keys / TVU_LANES;

    profile_step(STEP_INPUT_NORM);
    for (uint32_t i = 0; i < count; i++)
        norm(KIND_INPUT_NORM, layer, plan.x + i * plan.x_rows, plan.t, model.hidden, S_INV_HIDDEN,
             i, CODES_TERNARY);
    profile_step(STEP_Q_PROJ);
    project(KIND_Q, layer, plan.qkv, plan.qkv_rows, queries, words, count, INTO_NEW);
    profile_step(STEP_K_PROJ);
    project(KIND_K, layer, k, plan.qkv_rows, keys, words, count, INTO_NEW);
    profile_step(STEP_V_PROJ);
    project(KIND_V, layer, v, plan.qkv_rows, keys, words, count, INTO_NEW);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t qkv = plan.qkv + i * plan.qkv_rows;
        profile_step(STEP_ROPE);
        place_heads(layer, qkv, inputs[i].position, layer == 0 || count > 1);
        profile_step(STEP_ATTENTION);
        attention(layer, &inputs[i], qkv);
    }
    profile_step(STEP_ATTN_SUB_NORM);
    for (uint32_t i = 0; i < count; i++)
        sub_norm(KIND_ATTN_SUB_NORM, layer, plan.qkv + i * plan.qkv_rows, plan.t, queries,
                 S_INV_QUERY, i, CODES_TERNARY);
    profile_step(STEP_O_PROJ);
    project(KIND_O, layer, plan.x, plan.x_rows, model.hidden, plan.query_words, count, INTO_SUM);
    profile_step(STEP_POST_NORM);
    for (uint32_t i = 0; i < count; i++)
        norm(KIND_POST_NORM, layer, plan.x + i * plan.x_rows, plan.t, model.hidden, S_INV_HIDDEN, i,
             CODES_TERNARY);
    mlp(layer, count);
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

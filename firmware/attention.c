// Attention over the int8 KV cache: all query heads of a KV head at once.
//
// K lies token by token, V in chunks of 512 tokens with a row of tokens per dimension, so that both scores and mixing are
// matrix times vector. Scales (float32) lie in arrays of their own, one per token and KV head.
#include "plan.h"

#define BLOCK_BYTES 512u

// s[S_B] = max(absmax, 1e-5) of n elements from row a, s[S_SCALE] = 127 / s[S_B].
static void quantisation_scale(uint32_t a, uint32_t n)
{
    tvu_absmax(a, n, S_A);
    tvu_smax(S_B, S_A, S_SMALLEST);
    tvu_sdiv(S_SCALE, S_127, S_B);
}

// For up to four heads from row a on: s[S_GROUP1..] = 127 / max(absmax, 1e-5), s[S_GROUP0..] = max(absmax, 1e-5) / 127.
static void head_scales(uint32_t a, uint32_t heads)
{
    tvu_rep(heads, 0, 1, 0, plan.head_rows, 0);
    tvu_absmax(a, model.head_dim, S_GROUP0);
    tvu_rep(heads, 1, 0, 0, 0, 0);
    tvu_smax(S_GROUP2, S_GROUP0, S_SMALLEST);
    tvu_rep(heads, 0, 1, 0, 0, 0);
    tvu_sdiv(S_GROUP1, S_127, S_GROUP2);
    tvu_rep(heads, 1, 0, 0, 0, 0);
    tvu_smul(S_GROUP0, S_GROUP2, S_INV_127);
}

void attention_store(uint32_t layer, uint32_t position, uint32_t qkv)
{
    uint32_t n = model.head_dim, rows = plan.head_rows;
    uint32_t place = position / CHUNK_TOKENS * n * BLOCK_BYTES + position % CHUNK_TOKENS;
    for (uint32_t cache = 0; cache < model.kv_heads; cache += TVU_BYTE_VECTORS) {
        uint32_t heads = model.kv_heads - cache < TVU_BYTE_VECTORS ? model.kv_heads - cache : TVU_BYTE_VECTORS;
        uint32_t k = qkv + (model.heads + cache) * rows, v = k + model.kv_heads * rows;
        uint32_t index = layer * model.kv_heads + cache;
        head_scales(k, heads);
        for (uint32_t i = 0; i < heads; i++) {
            tvu_storeq(model.k_base + (index + i) * model.k_head_bytes + position * plan.head_words * TVU_WORD_BYTES,
                       k + i * rows, n, S_GROUP1 + i);
            tvu_stores(model.ks_base + (index + i) * model.s_head_bytes + 4 * position, S_GROUP0 + i);
        }
        head_scales(v, heads);
        for (uint32_t i = 0; i < heads; i++) {
            tvu_storeqt(model.v_base + (index + i) * model.v_head_bytes + place, v + i * rows, n, S_GROUP1 + i);
            tvu_stores(model.vs_base + (index + i) * model.s_head_bytes + 4 * position, S_GROUP0 + i);
        }
    }
}

static void load_scales(uint32_t base, uint32_t index, uint32_t tokens)
{
    tvu_stream((base + index * model.s_head_bytes) | FENCE, (tokens + TVU_LANES - 1) / TVU_LANES);
    tvu_loadf(plan.cached, tokens, 0);
}

// Softmax in base 2 without its division, times V's scales; leaves sums in S_SUMS, factors for the result in S_GROUP2.
static void weigh(uint32_t group, uint32_t index, uint32_t tokens)
{
    uint32_t s = plan.scores, rows = plan.context_rows;

    tvu_rep(group, 0, 1, 0, rows, 0);
    tvu_max(s, tokens, S_GROUP0);
    tvu_rep(group, 0, 0, rows, rows, group > 1);
    tvu_exp2(s, s, S_ONE, S_GROUP0, tokens, 0);
    tvu_rep(group, 0, 1, 0, rows, 0);
    tvu_sum(s, tokens, S_SUMS);
    load_scales(model.vs_base, index, tokens);
    tvu_rep(group, 0, 1, rows, rows, 0);
    tvu_mulv(s, s, S_ONE, plan.cached, tokens, S_GROUP2);
    tvu_rep(group, 0, 1, 0, 0, 0);
    tvu_sdiv(S_GROUP0, S_127, S_GROUP2);
    tvu_rep(group, 1, 0, 0, 0, 0);
    tvu_smul(S_GROUP1, S_GROUP2, S_INV_127);
    tvu_rep(group, 1, 1, 0, 0, 0);
    tvu_sdiv(S_GROUP2, S_GROUP1, S_SUMS);
}

static void mix(uint32_t group, uint32_t out, uint32_t index, uint32_t tokens)
{
    for (uint32_t start = 0; start < tokens; start += CHUNK_TOKENS) {
        uint32_t n = tokens - start < CHUNK_TOKENS ? tokens - start : CHUNK_TOKENS;
        uint32_t words = (n + TVU_WORD_BYTES - 1) / TVU_WORD_BYTES;
        tvu_rep(group, 1, 0, 1, plan.context_rows, 0);
        tvu_quant8(0, plan.scores + start / TVU_LANES, S_GROUP0, n);
        tvu_streamr((model.v_base + index * model.v_head_bytes + start / CHUNK_TOKENS * model.head_dim * BLOCK_BYTES) |
                        FENCE,
                    model.head_dim, words, 1);
        if (start == 0)
            tvu_dot(out, words, TVU_MODE_INT8, group - 1, 1, S_GROUP2, plan.head_rows, model.head_dim);
        else
            tvu_dota(out, words, TVU_MODE_INT8, group - 1, 1, S_GROUP2, plan.head_rows, model.head_dim);
    }
}

void attention(uint32_t layer, uint32_t position, uint32_t qkv)
{
    uint32_t group = model.heads / model.kv_heads, tokens = position + 1, n = model.head_dim;
    for (uint32_t cache = 0; cache < model.kv_heads; cache++) {
        uint32_t index = layer * model.kv_heads + cache, q = qkv + cache * group * plan.head_rows;

        load_scales(model.ks_base, index, tokens);
        tvu_stream((model.k_base + index * model.k_head_bytes) | FENCE, tokens * plan.head_words);
        quantisation_scale(q, group * n);
        tvu_rep(group, 0, 0, 1, plan.head_rows, 0);
        tvu_quant8(0, q, S_SCALE, n);
        tvu_smul(S_OUT, S_B, S_INV_127);
        tvu_smul(S_OUT, S_OUT, S_SCORE);
        tvu_epi(plan.cached, TVU_FACTOR_B, TVU_PICK_NONE, 0, 0);
        tvu_dot(plan.scores, plan.head_words, TVU_MODE_INT8, group - 1, 0, S_OUT, plan.context_rows, tokens);

        weigh(group, index, tokens);
        mix(group, q, index, tokens);
    }
}

// Attention over the int8 KV cache: all query heads of a KV head at once.
//
// K lies token by token, V in chunks of 512 tokens with a row of tokens per dimension, so that both scores and mixing are
// matrix times vector. Scales (float32) lie in arrays of their own, one per token and KV head.
#include "plan.h"

#define BLOCK_BYTES 512u
#define FENCE 1u // the stream waits for the stores issued before it

// s[S_SCALE] = 127 / max(absmax, 1e-5) of n elements from row a.
static void quantisation_scale(uint32_t a, uint32_t n)
{
    tvu_absmax(a, n, S_A);
    tvu_smax(S_A, S_A, S_SMALLEST);
    tvu_sdiv(S_SCALE, S_127, S_A);
}

static void store_token(uint32_t cache, uint32_t index, uint32_t position)
{
    uint32_t n = model.head_dim;
    uint32_t k = plan.qkv + (model.heads + cache) * plan.head_rows;
    uint32_t v = k + model.kv_heads * plan.head_rows;

    quantisation_scale(k, n);
    tvu_storeq(model.k_base + index * model.k_head_bytes + position * plan.head_words * TVU_WORD_BYTES, k, n, S_SCALE);
    tvu_sdiv(S_A, S_ONE, S_SCALE);
    tvu_stores(model.ks_base + index * model.s_head_bytes + 4 * position, S_A);

    quantisation_scale(v, n);
    tvu_storeqt(model.v_base + index * model.v_head_bytes + position / CHUNK_TOKENS * n * BLOCK_BYTES +
                    position % CHUNK_TOKENS,
                v, n, S_SCALE);
    tvu_sdiv(S_A, S_ONE, S_SCALE);
    tvu_stores(model.vs_base + index * model.s_head_bytes + 4 * position, S_A);
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
    tvu_rep(group, 1, 0, 0, 0, 0);
    tvu_smul(S_GROUP1, S_GROUP0, S_MINUS_ONE);
    tvu_rep(group, 0, 0, rows, rows, 1);
    tvu_exp2(s, s, S_ONE, S_GROUP1, tokens, 0);
    tvu_rep(group, 0, 1, 0, rows, 0);
    tvu_sum(s, tokens, S_SUMS);
    load_scales(model.vs_base, index, tokens);
    tvu_rep(group, 0, 1, rows, rows, 0);
    tvu_mulv(s, s, plan.cached, tokens, S_GROUP2);
    tvu_rep(group, 0, 1, 0, 0, 0);
    tvu_sdiv(S_GROUP0, S_127, S_GROUP2);
    tvu_rep(group, 0, 1, 0, 0, 0);
    tvu_sdiv(S_GROUP1, S_ONE, S_GROUP0);
    tvu_rep(group, 1, 1, 0, 0, 0);
    tvu_sdiv(S_GROUP2, S_GROUP1, S_SUMS);
}

static void mix(uint32_t group, uint32_t cache, uint32_t index, uint32_t tokens)
{
    uint32_t out = plan.t + cache * group * plan.head_rows;
    for (uint32_t start = 0; start < tokens; start += CHUNK_TOKENS) {
        uint32_t n = tokens - start < CHUNK_TOKENS ? tokens - start : CHUNK_TOKENS;
        uint32_t words = (n + TVU_WORD_BYTES - 1) / TVU_WORD_BYTES;
        tvu_rep(group, 1, 0, 1, plan.context_rows, 0);
        tvu_quant4(0, plan.scores + start / TVU_LANES, S_GROUP0, n);
        tvu_streamr((model.v_base + index * model.v_head_bytes + start / CHUNK_TOKENS * model.head_dim * BLOCK_BYTES) |
                        FENCE,
                    model.head_dim, words, 1);
        if (start == 0)
            tvu_dot(out, words, TVU_MODE_INT8, group - 1, S_GROUP2, 1, plan.head_rows, model.head_dim);
        else
            tvu_dota(out, words, TVU_MODE_INT8, group - 1, S_GROUP2, 1, plan.head_rows, model.head_dim);
    }
}

void attention(uint32_t layer, uint32_t position)
{
    uint32_t group = model.heads / model.kv_heads, tokens = position + 1, n = model.head_dim;
    for (uint32_t cache = 0; cache < model.kv_heads; cache++) {
        uint32_t index = layer * model.kv_heads + cache, q = plan.qkv + cache * group * plan.head_rows;
        store_token(cache, index, position);

        quantisation_scale(q, group * n);
        tvu_rep(group, 0, 0, 1, plan.head_rows, 0);
        tvu_quant4(0, q, S_SCALE, n);
        tvu_sdiv(S_OUT, S_SCORE, S_SCALE);
        tvu_stream((model.k_base + index * model.k_head_bytes) | FENCE, tokens * plan.head_words);
        tvu_dot(plan.scores, plan.head_words, TVU_MODE_INT8, group - 1, S_OUT, 0, plan.context_rows, tokens);
        load_scales(model.ks_base, index, tokens);
        tvu_rep(group, 0, 0, plan.context_rows, plan.context_rows, 0);
        tvu_mulv(plan.scores, plan.scores, plan.cached, tokens, 0);

        weigh(group, index, tokens);
        mix(group, cache, index, tokens);
    }
}

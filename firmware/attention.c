// Attention over the int8 KV cache: all query heads of a KV head at once.
//
// K lies token by token, V in chunks of 512 tokens with a row of tokens per dimension, so that both
// scores and mixing are matrix times vector. Scales (float32) lie in arrays of their own, one per
// token and KV head. A conversation has pages of all of these (pages.h), a quarter of a chunk each,
// and what lies in pages behind one another is read in one go. That changes no bit: sums of a
// chunk's codes are exact in float32, wherever its pages lie.
//
// Scalar operations go on behind vector ones until somebody names their result, and a transposed
// store's writes until the cache is read: both stand here ahead of their use by some vector
// operations.
#include "pages.h"
#include "plan.h"

// s[S_SCALE] = max(absmax, 1e-5) of the `count` query heads from row q on, which share a KV head.
static void query_maximum(uint32_t q, uint32_t count)
{
    tvu_absmax(q, count * model.head_dim, S_SCALE);
    tvu_smax(S_SCALE, S_SCALE, S_SMALLEST);
}

// With that, s[S_OUT] = s[S_SCALE] / 127 and s[S_SCALE] = 127 / s[S_SCALE].
static void query_scale(void)
{
    tvu_smul(S_OUT, S_SCALE, S_INV_127);
    tvu_sdiv(S_SCALE, S_127, S_SCALE);
}

// s[out..] = max(s[out..], 1e-5)
static void at_least_smallest(uint32_t out, uint32_t count)
{
    tvu_rep(count, 1, 0, 0, 0, 0);
    tvu_smax(out, out, S_SMALLEST);
}

// s[out..] = s[out..] / 127
static void divide_by_127(uint32_t out, uint32_t count)
{
    tvu_rep(count, 1, 0, 0, 0, 0);
    tvu_smul(out, out, S_INV_127);
}

// Puts the keys of `heads` heads and the scales of their keys and values into the cache. The values
// themselves are put there later, times s[S_V_SCALES..]. Prepares the first of these
// heads' queries.
static void store_heads(uint32_t index, uint32_t heads, uint32_t place, uint32_t q, uint32_t k,
                        uint32_t v)
{
    uint32_t n = model.head_dim, rows = plan.head_rows;
    tvu_rep(heads, 0, 1, 0, rows, 0);
    tvu_absmax(k, n, S_K_MAXIMA);
    tvu_rep(heads, 0, 1, 0, rows, 0);
    tvu_absmax(v, n, S_V_MAXIMA);
    at_least_smallest(S_K_MAXIMA, heads);
    tvu_sdiv(S_A, S_127, S_K_MAXIMA);
    query_maximum(q, plan.query_heads);
    at_least_smallest(S_V_MAXIMA, heads);
    query_scale();
    for (uint32_t i = 0; i < heads; i++) {
        // the next one is divided while this one is used
        uint32_t scale = i & 1 ? S_B : S_A, next = i & 1 ? S_A : S_B;
        tvu_smul(S_K_MAXIMA + i, S_K_MAXIMA + i, S_INV_127);
        if (i + 1 < heads)
            tvu_sdiv(next, S_127, S_K_MAXIMA + i + 1);
        tvu_sdiv(S_V_SCALES + i, S_127, S_V_MAXIMA + i);
        tvu_storeq(model.k_base + (index + i) * model.k_head_bytes +
                       place * plan.head_words * TVU_WORD_BYTES,
                   k + i * rows, n, scale);
        tvu_stores(model.ks_base + (index + i) * model.s_head_bytes + 4 * place, S_K_MAXIMA + i);
    }
    divide_by_127(S_V_MAXIMA, heads);
    for (uint32_t i = 0; i < heads; i++)
        tvu_stores(model.vs_base + (index + i) * model.s_head_bytes + 4 * place, S_V_MAXIMA + i);
}

// Where the values of a token of the cache lie; those of its page follow byte by byte.
static uint32_t values_address(uint32_t index, uint32_t place)
{
    return model.v_base + index * model.v_head_bytes +
           place / CHUNK_TOKENS * model.head_dim * TVU_BLOCK_BYTES + place % CHUNK_TOKENS;
}

static void stream_scales(uint32_t base, uint32_t index, const struct input *input)
{
    uint32_t tokens = input->position + 1;
    for (uint32_t at = 0, run; at < tokens; at += run) {
        run = pages_run(input->pages, at, tokens - at);
        uint32_t place = pages_place(input->pages, at);
        tvu_stream((base + index * model.s_head_bytes + 4 * place) | FENCE,
                   (run + TVU_LANES - 1) / TVU_LANES);
    }
}

// Products of keys and queries, run by run: the queue of streams is too short for those of a
// conversation whose pages lie anywhere, and who waits for room in it holds up the product.
static void multiply_keys(uint32_t group, uint32_t index, const struct input *input)
{
    uint32_t tokens = input->position + 1, bytes = plan.head_words * TVU_WORD_BYTES;
    for (uint32_t at = 0, run; at < tokens; at += run) {
        run = pages_run(input->pages, at, tokens - at);
        uint32_t place = pages_place(input->pages, at);
        tvu_stream((model.k_base + index * model.k_head_bytes + place * bytes) | FENCE,
                   run * plan.head_words);
        tvu_epi(plan.cached + at / TVU_LANES, TVU_FACTOR_B, TVU_PICK_NONE, 0, 0, 0);
        tvu_dot(plan.scores + at / TVU_LANES, plan.head_words, TVU_MODE_INT8, group - 1, 0, S_OUT,
                plan.context_rows, run);
    }
}

// Scores of a KV head's query heads; leaves V's scales in the stream.
static void score(uint32_t group, uint32_t q, uint32_t index, const struct input *input)
{
    uint32_t tokens = input->position + 1;
    tvu_smul(S_OUT, S_OUT, S_SCORE);
    tvu_rep(group, 0, 0, 1, plan.head_rows, 0);
    tvu_quant8(0, q, S_SCALE, model.head_dim);
    stream_scales(model.ks_base, index, input);
    tvu_loadf(plan.cached, tokens, 0);
    multiply_keys(group, index, input);
    stream_scales(model.vs_base, index, input);
}

// Softmax in base 2 without its division, times V's scales from the stream; leaves 127 / absmax in
// s[S_MAXIMA..], absmax / 127 in s[S_FACTORS..], and the sums to divide by in s[S_SUMS..].
static void weigh(uint32_t group, uint32_t tokens)
{
    uint32_t s = plan.scores, rows = plan.context_rows;

    tvu_rep(group, 0, 1, 0, rows, 0);
    tvu_max(s, tokens, S_MAXIMA);
    tvu_rep(group, 0, 0, rows, rows, group > 1);
    tvu_exp2(s, s, S_ONE, S_MAXIMA, tokens, 0);
    tvu_rep(group, 0, 1, 0, rows, 0);
    tvu_sum(s, tokens, S_SUMS);
    tvu_loadf(plan.cached, tokens, 0);
    tvu_rep(group, 0, 1, rows, rows, 0);
    tvu_mulv(s, s, S_ONE, plan.cached, tokens, S_FACTORS);
    tvu_rep(group, 0, 1, 0, 0, 0);
    tvu_sdiv(S_MAXIMA, S_127, S_FACTORS);
    divide_by_127(S_FACTORS, group);
}

// How the values of a chunk are mixed: times s[factor..], one for each query head or one for all,
// into rows from `dst` on, or added to them.
struct mixing {
    uint32_t group, index, dst, factor;
    bool each, add;
};

// Values of tokens from `at` on, none of which leaves its chunk, times their weights; meanwhile, if
// `more`, the scale of the next queries from what query_maximum left.
static void mix_run(const struct input *input, const struct mixing *m, uint32_t at, uint32_t run,
                    bool more)
{
    uint32_t words = (run + TVU_WORD_BYTES - 1) / TVU_WORD_BYTES;
    tvu_rep(m->group, 1, 0, 1, plan.context_rows, 0);
    tvu_quant8(0, plan.scores + at / TVU_LANES, S_MAXIMA, run);
    if (more)
        query_scale();
    tvu_streamr(values_address(m->index, pages_place(input->pages, at)) | FENCE, model.head_dim,
                words, 1);
    if (m->add)
        tvu_dota(m->dst, words, TVU_MODE_INT8, m->group - 1, m->each, m->factor, plan.head_rows,
                 model.head_dim);
    else
        tvu_dot(m->dst, words, TVU_MODE_INT8, m->group - 1, m->each, m->factor, plan.head_rows,
                model.head_dim);
}

// The tokens from `at` on that lie one behind the other in one chunk of the cache.
static uint32_t run_in_chunk(const struct input *input, uint32_t at, uint32_t tokens)
{
    uint32_t run = pages_run(input->pages, at, tokens),
             room = CHUNK_TOKENS - pages_place(input->pages, at) % CHUNK_TOKENS;
    return run < room ? run : room;
}

// A chunk of a conversation whose pages do not lie one behind the other: sums of codes, which are
// exact, times s[S_FACTORS..].
static void mix_scattered(const struct input *input, const struct mixing *m, uint32_t start,
                          uint32_t end, bool more)
{
    struct mixing sums = {m->group, m->index, plan.sums, S_ONE, false, false};
    for (uint32_t at = start, run; at < end; at += run) {
        run = run_in_chunk(input, at, end - at);
        mix_run(input, &sums, at, run, more && at == start);
        sums.add = true;
    }
    tvu_rep(m->group, 1, 0, plan.head_rows, plan.head_rows, plan.head_rows);
    if (m->add)
        tvu_axpy(m->dst, plan.sums, m->factor, m->dst, model.head_dim, 0);
    else
        tvu_muls(m->dst, plan.sums, m->factor, model.head_dim, 0);
}

// Values times weights into row out.
static void mix(uint32_t group, uint32_t out, uint32_t index, const struct input *input, bool more)
{
    uint32_t tokens = input->position + 1;
    struct mixing m = {group, index, out, S_FACTORS, true, false};
    tvu_rep(group, 1, 1, 0, 0, 0);
    tvu_sdiv(S_FACTORS, S_FACTORS, S_SUMS);
    for (uint32_t start = 0; start < tokens; start += CHUNK_TOKENS) {
        uint32_t n = tokens - start < CHUNK_TOKENS ? tokens - start : CHUNK_TOKENS;
        if (run_in_chunk(input, start, n) == n)
            mix_run(input, &m, start, n, more);
        else
            mix_scattered(input, &m, start, start + n, more);
        m.add = true;
        more = false;
    }
}

// Attention of the query heads from row q on that share KV head `index`, up to plan.query_heads at
// a time; scales of the first ones are prepared, and those of the next KV head's if there are
// `more`.
static void attend(const struct input *input, uint32_t q, uint32_t index, uint32_t v,
                   uint32_t scale, bool more)
{
    uint32_t heads = model.heads / model.kv_heads,
             place = pages_place(input->pages, input->position);
    for (uint32_t first = 0, count; first < heads; first += count) {
        uint32_t rest = heads - first, out = q + first * plan.head_rows;
        count = plan_smaller(rest, plan.query_heads);
        score(count, out, index, input);
        if (first == 0)
            tvu_storeqt(values_address(index, place), v, model.head_dim, scale);
        weigh(count, input->position + 1);
        bool last = rest == count;
        if (more || !last)
            query_maximum(out + count * plan.head_rows,
                          last ? plan.query_heads : plan_smaller(rest - count, plan.query_heads));
        mix(count, out, index, input, more || !last);
    }
}

void attention(uint32_t layer, const struct input *input, uint32_t qkv)
{
    uint32_t group = model.heads / model.kv_heads, rows = plan.head_rows,
             place = pages_place(input->pages, input->position);
    for (uint32_t first = 0; first < model.kv_heads; first += STORED_HEADS) {
        uint32_t heads =
            model.kv_heads - first < STORED_HEADS ? model.kv_heads - first : STORED_HEADS;
        uint32_t index = layer * model.kv_heads + first, q = qkv + first * group * rows;
        uint32_t k = qkv + (model.heads + first) * rows, v = k + model.kv_heads * rows;
        store_heads(index, heads, place, q, k, v);
        for (uint32_t i = 0; i < heads; i++)
            attend(input, q + i * group * rows, index + i, v + i * rows, S_V_SCALES + i,
                   i + 1 < heads);
    }
}

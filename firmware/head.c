// The output head: all logits, or int8 logits of the tokens that a ternary sketch of the embedding
// ranks highest.
#include "head.h"

#include "board.h"
#include "fault.h"
#include "link.h"
#include "plan.h"
#include <generated/tvu.h>

#define MAX_CANDIDATES (1u << TVU_RANK_LEVELS)

static uint32_t tokens[MAX_CANDIDATES];

// The int8 rows of the head, and their scales: the embedding's, if it has none of its own.
static const struct tensor *head_rows(void)
{
    return model_tensor(model.untied ? KIND_HEAD : KIND_EMBEDDING, 0);
}

static const struct tensor *head_scales(void)
{
    return model_tensor(model.untied ? KIND_HEAD_SCALE : KIND_EMBEDDING_SCALE, 0);
}

// Unsigned key in the order of the float32 values.
static uint32_t float_key(uint32_t bits)
{
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// How many logits are computed at once from token `start` on. Tells hosts and watchdog of it.
static uint32_t chunk(uint32_t start)
{
    watchdog_feed();
    link_progress(start, model.vocab);
    return model.vocab - start < plan.logits_chunk ? model.vocab - start : plan.logits_chunk;
}

bool head_full(bool keep, struct logits *logits)
{
    const struct tensor *rows = head_rows(), *scales = head_scales();
    uint32_t words = model.hidden / TVU_WORD_BYTES;
    if (!keep)
        tvu_rank(1);
    for (uint32_t start = 0; start < model.vocab; start += plan.logits_chunk) {
        uint32_t n = chunk(start);
        tvu_stream(scales->address + 4 * start, n / TVU_LANES);
        tvu_stream(rows->address + start * model.hidden, n * words);
        tvu_loadf(plan.logits, n, 0);
        tvu_epi(plan.logits, TVU_FACTOR_B, TVU_PICK_NONE, !keep, 0, start);
        tvu_dot(plan.logits, words, TVU_MODE_INT8, 0, 0, S_OUT, 0, n);
        if (keep)
            tvu_storef(model.logits_base + 4 * start, plan.logits, n);
    }
    if (!tvu_wait())
        return false;
    logits->tokens = 0;
    logits->count = model.vocab;
    logits->address = model.logits_base;
    logits->best = keep ? 0 : tvu_ranked(1, 0);
    return true;
}

void head_rank(uint32_t count)
{
    const struct tensor *rows = model_tensor(KIND_SKETCH, 0),
                        *scales = model_tensor(KIND_SKETCH_SCALE, 0);
    uint32_t words = plan.hidden_words;
    for (uint32_t start = 0; start < model.vocab; start += plan.logits_chunk) {
        uint32_t n = chunk(start);
        tvu_stream(scales->address + 4 * start, n / TVU_LANES);
        tvu_stream(rows->address + start * words * TVU_WORD_BYTES, n * words);
        tvu_loadf(plan.logits, n, 0);
        tvu_epi(plan.logits, TVU_FACTOR_B, TVU_PICK_NONE, 1, 0, start);
        tvu_dot(0, words, model.weight_mode, count - 1, 1, S_OUTS, 0, n);
    }
}

bool head_screened(uint32_t vector, uint32_t x, struct logits *logits)
{
    const struct tensor *rows = head_rows();
    uint32_t words = model.hidden / TVU_WORD_BYTES, kept = (1u << model.rank_levels) - 1;
    uint32_t count = model.vocab < kept ? model.vocab : kept;
    uint32_t scales = model.candidates_base, results = scales + (4u << TVU_RANK_LEVELS);
    tvu_quant8(0, x, S_SCALES + vector, model.hidden);
    if (!tvu_wait())
        return false;
    tvu_dot(plan.logits, words, TVU_MODE_INT8, 0, 0, S_OUTS + vector, 0, count);
    // The product waits for each row: this loop calls nothing, lest the callee lies on the same
    // lines of the instruction cache.
    uint32_t found = 0, factors = head_scales()->address;
    for (uint32_t entry = 1; entry <= kept && found < count; entry++) {
        uint32_t token = tvu_ranked(entry, vector);
        if (token == ~0u)
            continue;
        tokens[found] = token;
        tvu_stream(rows->address + token * model.hidden, words);
        *ddr_word(tvu_physical(scales + 4 * found)) = *ddr_word(tvu_physical(factors + 4 * token));
        found++;
    }
    stores_drain();
    tvu_stream(scales, (count + TVU_LANES - 1) / TVU_LANES);
    tvu_mulm(plan.logits, plan.logits, S_ONE, count, 0);
    tvu_storef(results, plan.logits, count);
    if (!tvu_wait())
        return false;
    cache_forget();
    uint32_t best = 0;
    logits->best = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bits = *ddr_word(tvu_physical(results + 4 * i));
        if (i == 0 || float_key(bits) > float_key(best) ||
            (bits == best && tokens[i] < logits->best)) {
            best = bits;
            logits->best = tokens[i];
        }
    }
    logits->tokens = tokens;
    logits->count = count;
    logits->address = results;
    return true;
}

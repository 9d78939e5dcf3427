// Finds the largest logits in DDR for the host to choose from.
#include "candidates.h"

#include "board.h"
#include "link.h"
#include <generated/tvu.h>

struct candidate {
    uint32_t token;
    int32_t key; // orders as the logit does
};
static struct candidate candidates[MOST_CANDIDATES];

static int32_t order_key(uint32_t bits)
{
    return (int32_t)(bits >> 31 ? bits ^ 0x7fffffffu : bits);
}

static bool better(const struct candidate *a, const struct candidate *b)
{
    return a->key != b->key ? a->key > b->key : a->token < b->token;
}

// The largest logits in falling order, equal ones by token.
static uint32_t find_candidates(const struct logits *logits, uint32_t most)
{
    uint32_t count = 0;
    cache_forget();
    for (uint32_t i = 0; i < logits->count; i++) {
        struct candidate new = {logits->tokens ? logits->tokens[i] : i,
                                order_key(*ddr_word(tvu_physical(logits->address + 4 * i)))};
        if (count == most && !better(&new, &candidates[count - 1]))
            continue;
        uint32_t place = count < most ? count++ : count - 1;
        for (; place && better(&new, &candidates[place - 1]); place--)
            candidates[place] = candidates[place - 1];
        candidates[place] = new;
    }
    return count;
}

void candidates_send(const struct logits *logits, uint32_t most)
{
    uint32_t count = find_candidates(logits, most < MOST_CANDIDATES ? most : MOST_CANDIDATES);
    for (uint32_t i = 0; i < count; i++)
        // its own inverse: the logit's bits again
        candidates[i].key = order_key((uint32_t)candidates[i].key);
    link_send(EVENT_CANDIDATES, (const uint32_t *)(const void *)candidates, 2 * count);
}

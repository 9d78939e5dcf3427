// Temperature, top-k and top-p on the largest logits; host/bitnet_host/sampling.py does the same, bit for bit.
#include "sample.h"

#include "board.h"

#define LOG2_E 1.44269504f

struct candidate {
    int32_t key; // orders as the logit does
    uint32_t token;
};
static struct candidate candidates[SAMPLE_CANDIDATES];
static float weights[SAMPLE_CANDIDATES];

static int32_t order_key(uint32_t bits)
{
    return (int32_t)(bits >> 31 ? bits ^ 0x7fffffffu : bits);
}

static float key_value(int32_t key)
{
    union {
        uint32_t bits;
        float value;
    } u = {.bits = key < 0 ? (uint32_t)key ^ 0x7fffffffu : (uint32_t)key};
    return u.value;
}

static bool better(const struct candidate *a, const struct candidate *b)
{
    return a->key != b->key ? a->key > b->key : a->token < b->token;
}

// The largest logits in falling order, equal ones by token.
static uint32_t find_candidates(const struct logits *logits)
{
    uint32_t count = 0;
    cache_forget();
    for (uint32_t i = 0; i < logits->count; i++) {
        struct candidate new = {order_key(*ddr_word(ddr_physical(logits->address + 4 * i))), logits->tokens ? logits->tokens[i] : i};
        if (count == SAMPLE_CANDIDATES && !better(&new, &candidates[count - 1]))
            continue;
        uint32_t place = count < SAMPLE_CANDIDATES ? count++ : count - 1;
        for (; place && better(&new, &candidates[place - 1]); place--)
            candidates[place] = candidates[place - 1];
        candidates[place] = new;
    }
    return count;
}

// 2^t for t <= 0, with the table-free arithmetic of sampling.py: 2^f by a cubic in fixed point.
static float power_of_two(float t)
{
    if (t < -100.0f)
        return 0.0f;
    int32_t fixed = (int32_t)(t * 65536.0f); // toward zero
    int32_t whole = fixed >> 16;
    uint32_t f = (uint32_t)fixed & 0xffff;
    // 2^f - 1 = f (a + f (b + f c)), coefficients in 1/65536 with a sum of one
    uint32_t poly = 14814 + (f * 5115 >> 16);
    poly = 45607 + (f * poly >> 16);
    poly = f * poly >> 16;
    union {
        uint32_t bits;
        float value;
    } u = {.bits = (uint32_t)(whole + 127) << 23 | (poly & 0xffff) << 7};
    return u.value;
}

static uint32_t next_random(uint32_t *state)
{
    uint32_t x = *state; // xorshift32, Marsaglia 2003
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

uint32_t sample(struct sampling *sampling, const struct logits *logits)
{
    uint32_t count = find_candidates(logits);
    if (sampling->top_k && sampling->top_k < count)
        count = sampling->top_k;
    float factor = LOG2_E / sampling->temperature, best = key_value(candidates[0].key), total = 0.0f;
    for (uint32_t i = 0; i < count; i++) {
        weights[i] = power_of_two((key_value(candidates[i].key) - best) * factor);
        total += weights[i];
    }
    float limit = total * sampling->top_p, kept = 0.0f;
    uint32_t n = 0;
    while (n < count && (n == 0 || kept < limit))
        kept += weights[n++];
    float target = (float)(next_random(&sampling->state) >> 8) * 0x1p-24f * kept, sum = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        sum += weights[i];
        if (target < sum)
            return candidates[i].token;
    }
    return candidates[n - 1].token;
}

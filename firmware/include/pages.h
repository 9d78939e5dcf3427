// Conversations' places in the KV cache, which they share in pages of PAGE_TOKENS tokens.
#pragma once

#include <generated/image.h>
#include <generated/tvu.h>
#include <stdbool.h>
#include <stdint.h>

#define MAX_PAGES ((TVU_ELEMENTS + PAGE_TOKENS - 1) / PAGE_TOKENS) // of a conversation

struct pages {
    uint32_t count;
    uint16_t page[MAX_PAGES]; // in the order of the conversation
};

// Gives all pages back.
void pages_reset(void);
// Makes sure that a conversation has pages for `tokens` tokens. False, with what it has as before,
// if there are not enough.
bool pages_take(struct pages *pages, uint32_t tokens);
// Gives back those that `tokens` tokens do not need.
void pages_keep(struct pages *pages, uint32_t tokens);
// Tokens that pages are left for.
uint32_t pages_free(void);

// Which token of the cache, counted over all pages, a conversation's token is.
static inline uint32_t pages_place(const struct pages *pages, uint32_t position)
{
    return pages->page[position / PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS;
}
// How many of `tokens` tokens from `position` on, the first of a page, lie one behind the other.
uint32_t pages_run(const struct pages *pages, uint32_t position, uint32_t tokens);

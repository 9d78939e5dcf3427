#include "pages.h"

#include "model.h"

#define MOST_PAGES (SLOTS * MAX_PAGES)
#define CHUNK_PAGES (CHUNK_TOKENS / PAGE_TOKENS)

static uint8_t used[MOST_PAGES];
static uint32_t left; // pages that nobody has

static uint32_t all(void)
{
    return model_loaded ? model.cache_tokens / PAGE_TOKENS : 0;
}

void pages_reset(void)
{
    for (uint32_t i = 0; i < MOST_PAGES; i++)
        used[i] = 0;
    left = all();
}

uint32_t pages_free(void)
{
    return left * PAGE_TOKENS;
}

// Pages of a chunk from `first` on that nobody has, up to the first that somebody has.
static uint32_t free_from(uint32_t first)
{
    uint32_t count = 0;
    while (count < CHUNK_PAGES && first + count < all() && !used[first + count])
        count++;
    return count;
}

// The page behind `last`, if it is in the same chunk, since values of a chunk are read in one go if
// they are one conversation's; else of the chunk with the most pages left at its end.
static uint32_t choose(uint32_t last, bool first)
{
    if (!first && (last + 1) % CHUNK_PAGES && free_from(last + 1))
        return last + 1;
    uint32_t best = 0, most = 0;
    for (uint32_t page = 0; page < all() && most < CHUNK_PAGES; page++) {
        uint32_t there = CHUNK_PAGES - page % CHUNK_PAGES, found = free_from(page);
        found = found < there ? found : there;
        if (found > most) {
            most = found;
            best = page;
        }
    }
    return best;
}

bool pages_take(struct pages *pages, uint32_t tokens)
{
    uint32_t wanted = (tokens + PAGE_TOKENS - 1) / PAGE_TOKENS;
    if (wanted > pages->count && wanted - pages->count > left)
        return false;
    while (pages->count < wanted) {
        uint32_t last = pages->count ? pages->page[pages->count - 1] : 0;
        uint32_t page = choose(last, pages->count == 0);
        used[page] = 1;
        left--;
        pages->page[pages->count++] = (uint16_t)page;
    }
    return true;
}

void pages_keep(struct pages *pages, uint32_t tokens)
{
    while (pages->count > (tokens + PAGE_TOKENS - 1) / PAGE_TOKENS) {
        used[pages->page[--pages->count]] = 0;
        left++;
    }
}

uint32_t pages_run(const struct pages *pages, uint32_t position, uint32_t tokens)
{
    uint32_t page = position / PAGE_TOKENS, run = PAGE_TOKENS;
    while (run < tokens && pages->page[page + 1] == pages->page[page] + 1) {
        page++;
        run += PAGE_TOKENS;
    }
    return run < tokens ? run : tokens;
}

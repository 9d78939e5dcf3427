#include "lookup.h"

#include "board.h"
#include "model.h"
#include <generated/protocol.h>

#define PLACES 256u // of each slot
#define SHORT_REST 16u
#define LONG_REST 256u // passes without drafts, after they have cost more than they saved

// Three tokens tell more than two, and a draft that is wrong costs more than it seems.
struct three {
    uint32_t first, second, third;
};

static struct lookup {
    uint16_t places[PLACES]; // where three tokens were seen last: the position of the third
    uint32_t learned;        // tokens that `places` knows of
    struct three last;       // the last ones of those
    uint32_t found;          // where they were seen before
    uint32_t reach;          // tokens of the next draft at the most
    uint32_t rest, pause;    // passes to rest for the next time, and now
    int32_t saved;           // cycles, as far as it matters
} lookups[SLOTS];

static uint32_t plain; // cycles of a pass without drafts, of late

uint32_t lookup_address(uint32_t slot, uint32_t position)
{
    return model.history_base + (slot * model.context + position) * 4;
}

static uint32_t token_at(uint32_t slot, uint32_t position)
{
    return *ddr_word(lookup_address(slot, position));
}

void lookup_keep(uint32_t slot, uint32_t tokens)
{
    struct lookup *l = &lookups[slot];
    if (l->learned > tokens)
        l->learned = tokens;
    if (l->learned > 1)
        l->last = (struct three){0, token_at(slot, l->learned - 2), token_at(slot, l->learned - 1)};
    if (tokens == 0) {
        l->reach = l->rest = l->pause = 0;
        l->saved = 0;
    }
}

static void learn(struct lookup *l, uint32_t token)
{
    struct three t = {l->last.second, l->last.third, token};
    uint16_t *place = &l->places[((t.first * 31 + t.second) * 31 + token) * 0x9E3779B1u >> 24];
    l->found = l->learned < 2 ? 0 : *place;
    *place = (uint16_t)l->learned++;
    l->last = t;
}

void lookup_said(uint32_t slot, uint32_t position, uint32_t token)
{
    struct lookup *l = &lookups[slot];
    *ddr_word(lookup_address(slot, position)) = token;
    while (l->learned < position)
        learn(l, token_at(slot, l->learned));
    learn(l, token);
}

uint32_t lookup_draft(uint32_t slot, uint32_t position, uint32_t most, uint32_t *tokens)
{
    struct lookup *l = &lookups[slot];
    uint32_t at = l->found, count = 0, reach = l->reach ? l->reach : 1;
    if (l->pause) {
        l->pause--;
        return 0;
    }
    // what was learnt before a conversation was cut back, and others that share a place
    if (at < 2 || at >= position || token_at(slot, at) != l->last.third ||
        token_at(slot, at - 1) != l->last.second || token_at(slot, at - 2) != l->last.first)
        return 0;
    for (; count < most && count < reach; count++) {
        uint32_t from = at + 1 + count;
        tokens[count] = from <= position ? token_at(slot, from) : tokens[from - position - 1];
        if (tokens[count] >= model.vocab)
            break;
    }
    return count;
}

void lookup_tell(uint32_t slot, uint32_t drafted, uint32_t accepted, uint32_t spent)
{
    struct lookup *l = &lookups[slot];
    if (!drafted) {
        plain = plain ? plain + (uint32_t)((int32_t)(spent - plain) / 8) : spent;
        return;
    }
    if (accepted == drafted)
        l->reach = drafted < LOOKUP_MOST ? drafted + 1 : drafted;
    else
        l->reach = accepted ? accepted : 1;
    if (!plain)
        return;
    int32_t most = 4 * (int32_t)plain;
    l->saved += (int32_t)(accepted * plain) - (int32_t)(spent - plain);
    l->saved = l->saved > most ? most : l->saved;
    if (l->saved >= 0) {
        l->rest = 0;
    } else if (l->saved < -2 * (int32_t)plain) {
        l->rest = l->rest ? 2 * l->rest : SHORT_REST;
        l->rest = l->rest < LONG_REST ? l->rest : LONG_REST;
        l->pause = l->rest;
        l->saved = -(int32_t)plain; // the next one that fails is the last for a while
    }
}

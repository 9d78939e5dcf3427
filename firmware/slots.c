#include "slots.h"

#include "board.h"
#include "candidates.h"
#include "fault.h"
#include "lookup.h"
#include "model.h"
#include "pages.h"
#include "profile.h"
#include "transformer.h"
#include <generated/protocol.h>
#include <generated/tvu.h>

#define COUNT_EVERY 32u // passes between two looks at the counters
#define TELL_EVERY 8u   // tokens of a prompt between two reports of progress

static struct slot {
    uint32_t position, from; // tokens in the KV cache, and before the pass under way
    // Of the GENERATE under way:
    uint32_t sequence, max_tokens, candidates, options;
    uint32_t prompt, done, told; // tokens of it, how many are in the cache, and are said to be
    uint32_t tokens;             // of the answer
    uint32_t next;               // the token that comes next, once the prompt is done
    uint32_t drafts, drafted, accepted; // guesses, their tokens, and those that were right
    uint64_t start, prefilled;          // cycles
    struct pages pages;
    uint64_t before[OPERATOR_COUNT][PARTS];
} slots[SLOTS];

// A bit for each slot that has something to do: what is asked of all of them in every pass does not
// reach for eight places in memory.
static uint32_t busy;

static uint32_t writer;       // the slot whose turn it is to write
static uint32_t reader;       // ... and whose prompt's it is
static bool prompts_alone;    // the last pass left those out that write
static uint32_t passes;       // since the counters were looked at
static uint32_t awaited;      // slots whose next token the host is choosing
static uint32_t asked, spent; // cycle at which it was asked, cycles of the pass before

static uint32_t number(const struct slot *s)
{
    return (uint32_t)(s - slots);
}

void slots_reset(void)
{
    pages_reset();
    for (uint32_t i = 0; i < SLOTS; i++) {
        slots[i].position = slots[i].pages.count = 0;
        lookup_keep(i, 0);
    }
    busy = awaited = 0;
}

uint32_t slots_position(uint32_t slot)
{
    return slots[slot].position;
}

bool slots_busy(void)
{
    return busy != 0;
}

static bool is_busy(uint32_t slot)
{
    return busy >> slot & 1;
}

static bool looks_up(const struct slot *s)
{
    return s->options & OPTION_LOOKUP;
}

// -- commands -------------------------------------------------------------------------------------

// The slot that a command names, which must have nothing to do and stand where the host thinks.
static struct slot *idle(uint32_t slot, uint32_t position)
{
    if (slot >= SLOTS)
        fault_raise(ERROR_ARGUMENT, slot);
    else if (is_busy(slot))
        fault_raise(ERROR_BUSY, slot);
    else if (!model_loaded)
        fault_raise(ERROR_NO_MODEL, 0);
    else if (slots[slot].position != position)
        fault_raise(ERROR_POSITION, slots[slot].position);
    return fault_pending() ? 0 : &slots[slot];
}

void slots_keep(const struct message *m)
{
    uint32_t slot = m->payload[0], keep = m->payload[1]; // garbage if m->length is not 2
    if (m->length != 2 || slot >= SLOTS || keep > (model_loaded ? model.context : 0)) {
        fault_raise(ERROR_ARGUMENT, keep);
        return;
    }
    struct slot *s = &slots[slot];
    if (is_busy(slot)) {
        fault_raise(ERROR_BUSY, slot);
    } else if (!pages_take(&s->pages, keep)) {
        fault_raise(ERROR_MEMORY, model.cache_tokens);
    } else {
        pages_keep(&s->pages, keep);
        lookup_keep(slot, keep);
        s->position = keep;
        link_send(EVENT_DONE, 0, 0);
    }
}

void slots_score(const struct message *m)
{
    struct logits logits;
    if (m->length != 3) {
        fault_raise(ERROR_ARGUMENT, 0);
        return;
    }
    struct slot *s = idle(m->payload[0], m->payload[2]);
    if (!s)
        return;
    struct input input = {m->payload[1], s->position, &s->pages};
    if (s->position >= model.context)
        fault_raise(ERROR_CONTEXT, model.context);
    else if (!pages_take(&s->pages, s->position + 1))
        fault_raise(ERROR_MEMORY, model.cache_tokens);
    else if (transformer_pass(&input, 1, 0) && transformer_head(0, HEAD_KEPT, &logits)) {
        uint32_t reply[3] = {++s->position, model.logits_base, model.vocab};
        link_send(EVENT_SCORED, reply, 3);
    }
}

// Where the token that a prompt has for a position of the conversation waits.
static uint32_t waiting(const struct slot *s, uint32_t position)
{
    return lookup_address(number(s), position);
}

// Takes note of what cycles are spent on from here on; says which cycle that is.
static uint64_t look(struct slot *s)
{
    profile_count();
    uint64_t now = cycles(); // from when the counters were read
    for (uint32_t i = 0; i < OPERATOR_COUNT; i++)
        for (uint32_t part = 0; part < PARTS; part++)
            s->before[i][part] = profile_counts[i][part];
    passes = 0;
    return now;
}

void slots_generate(const struct message *m)
{
    volatile const uint32_t *p = m->payload; // garbage if m->length is too small
    uint32_t count = m->length < GENERATE_WORDS ? 0 : p[GENERATE_PROMPT_TOKENS];
    if (count == 0 || m->length != GENERATE_WORDS + count) {
        fault_raise(ERROR_ARGUMENT, GENERATE_PROMPT_TOKENS);
        return;
    }
    if (p[GENERATE_CANDIDATES] && p[GENERATE_MAX_TOKENS]) {
        fault_raise(ERROR_ARGUMENT, GENERATE_CANDIDATES);
        return;
    }
    struct slot *s = idle(p[GENERATE_SLOT], p[GENERATE_POSITION]);
    if (!s)
        return;
    if (s->position + count > model.context)
        fault_raise(ERROR_CONTEXT, model.context);
    for (uint32_t i = 0; i < count && !fault_pending(); i++) {
        if (p[GENERATE_WORDS + i] >= model.vocab)
            fault_raise(ERROR_ARGUMENT, p[GENERATE_WORDS + i]);
        ddr_put(waiting(s, s->position + i), p[GENERATE_WORDS + i]);
    }
    if (fault_pending())
        return;
    s->sequence = m->sequence;
    s->max_tokens = p[GENERATE_MAX_TOKENS];
    s->candidates = p[GENERATE_CANDIDATES];
    s->options = p[GENERATE_OPTIONS];
    if (looks_up(s)) // the token that was said last may not be the one that follows
        lookup_keep(number(s), s->position);
    s->prompt = count;
    s->done = s->told = s->tokens = s->drafts = s->drafted = s->accepted = 0;
    s->start = s->prefilled = look(s);
    busy |= 1u << number(s);
    if (s->candidates && awaited)
        awaited--;
}

// -- the end of an answer -------------------------------------------------------------------------

static void finish(struct slot *s, uint32_t reason)
{
    profile_count();
    busy &= ~(1u << number(s));
    uint64_t now = cycles();
    if (!s->tokens)
        s->prefilled = now;
    uint64_t prefill = s->prefilled - s->start, decode = now - s->prefilled;
    uint32_t each = s->tokens > 1 ? s->tokens - 1 : s->done ? s->done : 1;
    uint32_t stats[STATS_WORDS] = {
        [STATS_STOP_REASON] = reason,
        [STATS_TOKENS] = s->tokens,
        [STATS_PREFILL_TOKENS] = s->done,
        [STATS_PREFILL_CYCLES_LOW] = (uint32_t)prefill,
        [STATS_PREFILL_CYCLES_HIGH] = (uint32_t)(prefill >> 32),
        [STATS_DECODE_CYCLES_LOW] = (uint32_t)decode,
        [STATS_DECODE_CYCLES_HIGH] = (uint32_t)(decode >> 32),
        [STATS_POSITION] = s->position,
        [STATS_DRAFTS] = s->drafts,
        [STATS_DRAFTED] = s->drafted,
        [STATS_ACCEPTED] = s->accepted,
    };
    for (uint32_t i = 0; i < OPERATOR_COUNT * PARTS; i++)
        stats[STATS_EMBED_MOVING + i] =
            (uint32_t)((profile_counts[i / PARTS][i % PARTS] - s->before[i / PARTS][i % PARTS]) /
                       each);
    link_answer(s->sequence);
    link_send(EVENT_STATS, stats, STATS_WORDS);
}

void slots_cancel(void)
{
    for (uint32_t i = 0; i < SLOTS; i++)
        if (is_busy(i))
            finish(&slots[i], STOP_CANCEL);
}

// What went wrong in a pass ends all answers: what it cut short is not in the cache.
static void fail(void)
{
    for (uint32_t i = 0; i < SLOTS; i++)
        if (is_busy(i)) {
            slots[i].position = slots[i].from;
            pages_keep(&slots[i].pages, slots[i].from);
            link_answer(slots[i].sequence);
            fault_tell();
        }
    busy = 0;
    fault_forget();
    tvu_reset();
}

// -- a pass ---------------------------------------------------------------------------------------

static struct input inputs[TVU_VECTORS];
static struct slot *owners[TVU_VECTORS];
static uint32_t count, longest; // inputs, and tokens that the one that sees most sees

static bool writes(uint32_t slot)
{
    return is_busy(slot) && slots[slot].done == slots[slot].prompt;
}

// Puts a token into the pass. False if it has to wait, or the slot has ended for want of memory.
static bool put(struct slot *s, uint32_t token, uint32_t position)
{
    uint32_t tokens = position + 1 > longest ? position + 1 : longest;
    if (count && !transformer_fits(count + 1, tokens)) // one always does
        return false;
    if (!pages_take(&s->pages, position + 1)) {
        if (position == s->position) // else what is in the pass comes first
            finish(s, STOP_MEMORY);
        return false;
    }
    inputs[count] = (struct input){token, position, &s->pages};
    owners[count++] = s;
    longest = tokens;
    return true;
}

// What is left of a slot's prompt, as far as there is room.
static void put_prompt(struct slot *s)
{
    for (uint32_t i = s->done; i < s->prompt; i++) {
        uint32_t position = s->position + i - s->done;
        if (!put(s, *ddr_word(waiting(s, position)), position))
            return;
    }
}

// Slots that have something to do, from `first` on: bit n is for slot first + n, which follows the
// last one round.
static uint32_t busy_from(uint32_t first)
{
    return (busy >> first | busy << (SLOTS - first)) & ((1u << SLOTS) - 1);
}

// Chooses what the next pass takes: a token of each answer, and as many of prompts as there is room
// for. If that is little, prompts get every other pass to themselves.
static void gather(void)
{
    uint32_t writing = 0, prompts = 0;
    count = longest = 0;
    for (uint32_t i = 0; busy >> i; i++) {
        if (is_busy(i) && link_cancelled(i, slots[i].sequence))
            finish(&slots[i], STOP_CANCEL);
        if (!is_busy(i))
            continue;
        slots[i].from = slots[i].position;
        writing += writes(i);
        prompts += !writes(i);
    }
    bool crowded = prompts && writing > transformer_most() / 2;
    prompts_alone = crowded && !prompts_alone;
    for (uint32_t i = writer, left = prompts_alone ? 0 : busy_from(i); left; left >>= 1, i++) {
        i %= SLOTS;
        if (writes(i) && put(&slots[i], slots[i].next, slots[i].position))
            writer = (i + 1) % SLOTS;
    }
    bool served = false;
    for (uint32_t i = reader, left = crowded && !prompts_alone ? 0 : busy_from(i); left && prompts;
         left >>= 1, i++) {
        i %= SLOTS;
        if (!is_busy(i) || writes(i))
            continue;
        put_prompt(&slots[i]);
        if (!served)
            reader = (i + 1) % SLOTS;
        served = true;
    }
}

// Behind the only token of the pass, those that may follow it.
static void put_drafts(struct slot *s)
{
    uint32_t drafts[LOOKUP_MOST], most = s->max_tokens - s->tokens - 1;
    if (most > model.context - 1 - s->position)
        most = model.context - 1 - s->position;
    if (most > LOOKUP_MOST)
        most = LOOKUP_MOST;
    uint32_t drafted = lookup_draft(number(s), s->position, most, drafts);
    for (uint32_t i = 0; i < drafted && put(s, drafts[i], s->position + 1 + i); i++)
        ;
}

static bool is_stop(uint32_t token)
{
    const uint32_t stops[4] = {model.stop0, model.stop1, model.stop2, model.stop3};
    for (uint32_t i = 0; i < model.stop_count; i++)
        if (stops[i] == token)
            return true;
    return false;
}

// Goes on with the best token, or names the best ones for the host to choose from.
static void choose(struct slot *s, const struct logits *logits)
{
    link_answer(s->sequence);
    if (s->candidates) {
        candidates_send(logits, s->candidates);
        finish(s, STOP_LENGTH);
        awaited++;
        asked = cycles_low();
        return;
    }
    if (s->tokens++ == 0)
        s->prefilled = s->max_tokens > 1 ? look(s) : cycles();
    s->next = logits->best;
    link_send1(EVENT_TOKEN, s->next);
    if (looks_up(s) && s->position < model.context)
        lookup_said(number(s), s->position, s->next);
    if (is_stop(s->next))
        finish(s, STOP_STOP);
    else if (s->position >= model.context)
        finish(s, STOP_CONTEXT);
    else if (s->tokens == s->max_tokens)
        finish(s, STOP_LENGTH);
}

static void tell_progress(struct slot *s)
{
    if (s->done - s->told < TELL_EVERY && s->done < s->prompt)
        return;
    uint32_t progress[2] = {s->done, s->prompt};
    link_answer(s->sequence);
    link_send(EVENT_PROGRESS, progress, 2);
    s->told = s->done;
}

static enum head head_for(const struct slot *s)
{
    if (!(s->options & OPTION_FULL_HEAD))
        return HEAD_SCREENED;
    return s->candidates ? HEAD_KEPT : HEAD_FULL;
}

// Whether the last token of the pass that is a slot's has a head.
static bool wants_head(const struct slot *s)
{
    return s->done == s->prompt && (s->max_tokens || s->candidates);
}

// Whether token number i of the pass is the last one of its slot.
static bool is_last(uint32_t i)
{
    return i + 1 == count || owners[i + 1] != owners[i];
}

static bool is_screened(const struct slot *s)
{
    return wants_head(s) && head_for(s) == HEAD_SCREENED;
}

// Takes a slot on by its tokens of the pass, of which the last one is number i. Nobody is told
// before the vector unit is known to have done them without a fault.
static bool go_on(struct slot *s, uint32_t i, bool writing)
{
    struct logits logits;
    bool wanted = wants_head(s);
    if (wanted ? !transformer_head(i, head_for(s), &logits) : !tvu_wait())
        return false;
    s->from = s->position; // what comes of the others does not undo it
    if (!writing)
        tell_progress(s);
    if (wanted)
        choose(s, &logits);
    else if (s->done == s->prompt)
        finish(s, STOP_LENGTH);
    return true;
}

// Takes all slots of the pass on.
static bool go_on_all(uint32_t writing)
{
    uint32_t screened = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!is_last(i))
            continue;
        if (is_screened(owners[i]))
            screened |= 1u << i;
        else if (!go_on(owners[i], i, i < writing))
            return false;
    }
    if (screened) // after full heads, which rank as well
        transformer_rank(screened);
    for (uint32_t i = 0; screened >> i; i++)
        if (screened >> i & 1 && !go_on(owners[i], i, i < writing))
            return false;
    return true;
}

// Takes a slot on by the tokens of its draft that are right, and the one behind them.
static bool go_on_drafted(struct slot *s, uint32_t *right)
{
    struct logits logits;
    s->drafts++;
    s->drafted += count - 1;
    if (is_screened(s))
        transformer_rank((1u << count) - 1);
    for (;; ++*right) {
        s->position = s->from + 1;
        if (!transformer_head(*right, head_for(s), &logits))
            return false;
        s->from = s->position;
        choose(s, &logits);
        if (!is_busy(number(s)) || *right + 1 == count || s->next != inputs[*right + 1].token)
            break;
        s->accepted++;
    }
    pages_keep(&s->pages, s->position);
    return true;
}

void slots_step(void)
{
    // A token that the host chooses goes into the same pass as the others, if it comes soon.
    if (awaited && cycles_low() - asked < spent / 8)
        return;
    awaited = 0;
    gather();
    if (!count)
        return;
    bool alone = count == 1 && looks_up(owners[0]) && busy == 1u << number(owners[0]) &&
                 writes(number(owners[0]));
    if (alone)
        put_drafts(owners[0]);
    uint32_t start = cycles_low(), writing = 0, profiled = 0, right = 0;
    transformer_all_rows = transformer_all_columns = false;
    for (uint32_t i = 0; i < count; i++) {
        writing += writes(number(owners[i]));
        transformer_all_rows |= owners[i]->options & OPTION_ALL_ROWS;
        transformer_all_columns |= owners[i]->options & OPTION_ALL_COLUMNS;
        if (owners[i]->options & OPTION_PROFILE)
            profiled = owners[i]->sequence;
    }
    bool done = transformer_pass(inputs, count, profiled);
    bool drafted = alone && count > 1;
    for (uint32_t i = 0; i < count && done && !drafted; i++) {
        owners[i]->position++;
        owners[i]->done += i >= writing;
    }
    if (done)
        done = drafted ? go_on_drafted(owners[0], &right) : go_on_all(writing);
    if (!done || !tvu_wait()) {
        fail();
        return;
    }
    if (++passes >= COUNT_EVERY) {
        profile_count();
        passes = 0;
    }
    spent = cycles_low() - start;
    if (alone)
        lookup_tell(number(owners[0]), count - 1, right, spent);
}

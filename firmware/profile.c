#include "profile.h"

#include "fault.h"
#include "link.h"
#include "model.h"

uint64_t profile_counts[OPERATOR_COUNT][PARTS];
uint8_t profile_sections[STEP_COUNT]; // of steps, or of their operators
static const uint8_t operators[STEP_COUNT] = STEP_OPERATORS;
static uint32_t told; // number of the command that hears of steps, or 0
static uint32_t seen[TVU_SECTIONS][PARTS];

static inline uint32_t take(uint32_t section, uint32_t part)
{
    uint32_t now = tvu_counter(part, section), spent = now - seen[section][part];
    seen[section][part] = now;
    return spent;
}

static void take_stage(uint32_t stage)
{
    uint32_t words[1 + STEP_COUNT * PARTS] = {stage}, any = 0;
    uint32_t first = stage > model.layers ? STEP_FINAL_NORM : stage ? STEP_INPUT_NORM : STEP_EMBED;
    uint32_t end = stage > model.layers ? STEP_COUNT : stage ? STEP_FINAL_NORM : STEP_INPUT_NORM;
    for (uint32_t step = first; step < end; step++)
        for (uint32_t part = 0; part < PARTS; part++) {
            uint32_t spent = take(profile_sections[step], part);
            words[1 + step * PARTS + part] = spent;
            profile_counts[operators[step]][part] += spent;
            any |= spent;
        }
    if (!any)
        return;
    uint32_t before = link_answered();
    link_answer(told);
    link_send(EVENT_PROFILE, words, 1 + STEP_COUNT * PARTS);
    link_answer(before);
}

bool profile_stage(uint32_t stage)
{
    if (!told)
        return true;
    if (!tvu_wait())
        return false;
    tvu_section(0);
    take_stage(stage);
    return true;
}

void profile_count(void)
{
    if (told)
        take_stage(model.layers + 1);
    else
        for (uint32_t i = 0; i < OPERATOR_COUNT; i++)
            for (uint32_t part = 0; part < PARTS; part++)
                profile_counts[i][part] += take(1 + i, part);
}

bool profile_begin(uint32_t sequence)
{
    bool ready = profile_sections[0];
    if (ready && !sequence && !told)
        return true;
    if (!tvu_wait())
        return false;
    tvu_section(0);
    profile_count();
    told = sequence;
    for (uint32_t i = 0; i < TVU_SECTIONS * PARTS; i++)
        take(i / PARTS, i % PARTS); // the self-test has its own
    // there are more steps than sections; those of one stage have their own
    for (uint32_t step = 0; step < STEP_COUNT; step++)
        profile_sections[step] = 1 + (told ? step % (TVU_SECTIONS - 1) : operators[step]);
    return true;
}

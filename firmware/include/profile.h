// Where cycles go: sections of the TVU's counters, for operators, or for each step of each layer.
#pragma once

#include <generated/protocol.h>
#include <generated/tvu.h>
#include <stdbool.h>
#include <stdint.h>

// Cycles since the firmware started, by operator.
extern uint64_t profile_counts[OPERATOR_COUNT][PARTS];
// Brings them up to date. To be called before a counter wraps: every 2^32 cycles.
void profile_count(void);

// A pass begins. If its steps are to be told apart, they are for the command of number `sequence`,
// or 0: then operators are enough. False if a fault was raised.
bool profile_begin(uint32_t sequence);
// Ends a stage of the pass whose steps are told apart: 0 before the layers, 1... a layer. Waits for
// the vector unit. False if a fault was raised.
bool profile_stage(uint32_t stage);

extern uint8_t profile_sections[STEP_COUNT];

// What follows in the queue counts for a step.
static inline void profile_step(uint32_t step)
{
    tvu_section(profile_sections[step]);
}

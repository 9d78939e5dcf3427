#include "selftest.h"

#include "board.h"
#include "fault.h"
#include <generated/selftest.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

// What the CONTROL instructions say and do, beside ID and STATUS, on which everything else stands.
static bool control_works(uint32_t moved_before)
{
    uint32_t numbers[2] = {0, 0};
    for (uint32_t i = 1; i <= SELFTEST_ENTRIES; i++)
        for (uint32_t vector = 0; vector < COUNT(numbers); vector++)
            numbers[vector] += tvu_ranked(i, vector);
    if (numbers[0] != SELFTEST_NUMBERS || numbers[1] != SELFTEST_NUMBERS_1 ||
        tvu_counter(TVU_COUNTER_MOVING, SELFTEST_SECTION) - moved_before != SELFTEST_MOVED)
        return false;
    tvu_storef(SELFTEST_OUT, 0, 0); // nothing to store: an error
    tvu_sset(1, 1);
    while (tvu_status() >> 31)
        ;
    if (tvu_status() != TVU_ERROR_DESCRIPTOR)
        return false;
    tvu_clear(TVU_ERROR_DESCRIPTOR);
    if (tvu_status())
        return false;
    tvu_ports(0, 0, 0); // no port: an error
    if (tvu_status() != TVU_ERROR_DESCRIPTOR)
        return false;
    tvu_stream(SELFTEST_BASE, 1); // a word that nobody takes
    tvu_reset();
    return tvu_wait();
}

uint32_t selftest(void)
{
    for (uint32_t i = 0; i < SELFTEST_BYTES / 4; i++)
        ddr_put(SELFTEST_BASE + 4 * i, i < COUNT(selftest_data) ? selftest_data[i] : 0);
    for (uint32_t i = 0; i < SELFTEST_OUT_BYTES; i += 4)
        ddr_put(SELFTEST_OUT + i, 0);
    stores_drain();
    tvu_reset();
    tvu_section(0);
    uint32_t moved = tvu_counter(TVU_COUNTER_MOVING, SELFTEST_SECTION);
    selftest_run();
    if (!tvu_wait())
        return COUNT(selftest_expected) + 1;
    for (uint32_t i = 0; i < COUNT(selftest_expected); i++)
        if (tvu_sget(i) != selftest_expected[i])
            return i + 1;
    return control_works(moved) ? 0 : COUNT(selftest_expected) + 2;
}

#include "selftest.h"

#include "board.h"
#include "fault.h"
#include <generated/selftest.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

uint32_t selftest(void)
{
    for (uint32_t i = 0; i < COUNT(selftest_data); i++)
        *ddr_word(SELFTEST_BASE + 4 * i) = selftest_data[i];
    for (uint32_t i = 0; i < SELFTEST_OUT_BYTES; i += 4)
        *ddr_word(SELFTEST_OUT + i) = 0;
    stores_drain();
    selftest_run();
    if (!tvu_wait())
        return COUNT(selftest_expected) + 1;
    for (uint32_t i = 0; i < COUNT(selftest_expected); i++)
        if (tvu_sget(i) != selftest_expected[i])
            return i + 1;
    return 0;
}

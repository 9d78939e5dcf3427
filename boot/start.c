// The start of the processing system, from the list in generated ps7/ps7_init.h.
#include "boot.h"
#include "ps7/ps7_init.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

// The address that a poll waited for in vain, or 0.
static uint32_t run(const struct ps7_step *steps, size_t count)
{
    for (const struct ps7_step *step = steps; step < steps + count; step++) {
        switch (step->kind) {
        case PS7_WRITE:
            hw_write(step->address, step->value);
            break;
        case PS7_MASKWRITE:
            hw_write(step->address, (hw_read(step->address) & ~step->mask) | step->value);
            break;
        case PS7_POLL:
            if (!hw_wait(step->address, step->mask, true, step->value))
                return step->address;
            break;
        default:
            hw_delay(step->value);
        }
    }
    return 0;
}

static bool ran(const char *what, uint32_t failed)
{
    if (failed) {
        say(what);
        say(": register ");
        say_hex(failed);
        say(" never said that it is ready\n");
    }
    return !failed;
}

bool start_processing_system(void)
{
    run(ps7_mio_init, COUNT(ps7_mio_init));
    uint32_t plls = run(ps7_pll_init, COUNT(ps7_pll_init));
    run(ps7_clock_init, COUNT(ps7_clock_init));
    uint32_t memory = run(ps7_ddr_init, COUNT(ps7_ddr_init));
    run(ps7_peripherals_init, COUNT(ps7_peripherals_init)); // the UART among them
    say("\nbitnet-zynq boot stub for " BOARD_TITLE "\n");
    return ran("a PLL does not lock; is the board's crystal the one in its board file", plls) &&
           ran("the DRAM does not train; does the board file fit this board", memory);
}

void start_fabric(void)
{
    run(ps7_post_config, COUNT(ps7_post_config));
}

static bool holds(uint32_t address, uint32_t value)
{
    if (hw_read(address) == value)
        return true;
    say("the DRAM does not hold what was written: ");
    say_hex(hw_read(address));
    say(" instead of ");
    say_hex(value);
    say(" at ");
    say_hex(address);
    say("; does the board file fit this board?\n");
    return false;
}

// Every data line by itself, and every address line: a line that is missing makes two of the
// addresses one.
bool memory_works(void)
{
    for (uint32_t bit = 0; bit < 32; bit++)
        hw_write(MODEL_BASE + 4 * bit, 1u << bit);
    for (uint32_t bit = 0; bit < 32; bit++)
        if (!holds(MODEL_BASE + 4 * bit, 1u << bit))
            return false;
    uint32_t base = BOARD_DDR_BYTES / 2;
    hw_write(base, base);
    for (uint32_t offset = 4; offset < BOARD_DDR_BYTES / 2; offset <<= 1)
        hw_write(base + offset, base + offset);
    hw_write(MODEL_BASE, MODEL_BASE); // with the highest line low
    for (uint32_t offset = 4; offset < BOARD_DDR_BYTES / 2; offset <<= 1)
        if (!holds(base + offset, base + offset))
            return false;
    return holds(base, base) && holds(MODEL_BASE, MODEL_BASE);
}

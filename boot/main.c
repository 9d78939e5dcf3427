// Starts a board from its SD card: processing system, model, fabric; then both cores sleep.
#include "boot.h"

_Noreturn void main(void);
_Noreturn void fault(uint32_t kind, uint32_t address);

static const char *const FAULTS[] = {"unknown instruction", "no instruction", "bus error"};

// Comes from the exception vectors.
void fault(uint32_t kind, uint32_t address)
{
    say("the boot stub failed: ");
    say(FAULTS[kind]);
    say(" at ");
    say_hex(address);
    say("\n");
    hw_park();
}

void main(void)
{
    hw_start_timer();
    if (start_processing_system() && memory_works()) {
        bool card = card_open(), there = card && bitstream_there();
        // before the fabric: with it, the firmware starts, and a host may come
        if (card)
            model_load();
        if (!there || !bitstream_load())
            bitstream_await();
        say("starting the fabric\n");
        say_drained();
        start_fabric();
    }
    hw_park();
}

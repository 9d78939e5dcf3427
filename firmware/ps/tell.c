// What a host is told of the processing system when it asks.
#include "board.h"
#include "gem.h"
#include "outside.h"
#include "reg.h"
#include <generated/protocol.h>

// A counter of the processing system's bus clock (TTC0): registers, and a bit.
#define RESTART 0x10u
#define PRESCALED(bits) (((bits) - 1) << 1 | 1)
#define TIMER_BITS 5u // of the clock before the counter's lowest
#define MEASURED_CYCLES (CONFIG_CLOCK_FREQUENCY / 500)
enum { ID_HIGH = 2, ID_LOW = 3 }; // of a PHY

static uint32_t timer_look(uint32_t *at)
{
    uint32_t count = reg_read(PS_TIMER_VALUE);
    *at = cycles_low();
    return count;
}

static void tell_clock(uint32_t *fields)
{
    uint32_t begin, end;
    reg_write(PS_TIMER_CLOCK, PRESCALED(TIMER_BITS));
    reg_write(PS_TIMER_CONTROL, RESTART);
    uint32_t before = timer_look(&begin);
    while (cycles_low() - begin < MEASURED_CYCLES)
        watchdog_feed();
    uint32_t after = timer_look(&end);
    fields[OUTSIDE_CYCLES] = end - begin;
    fields[OUTSIDE_TICKS] = ((after - before) & 0xffff) << TIMER_BITS;
    fields[OUTSIDE_TICKS_HZ] = PS_TIMER_HZ;
}

void outside_tell(uint32_t *fields)
{
    fields[OUTSIDE_PROCESSING_SYSTEM] = 1;
    fields[OUTSIDE_LINK] = ethernet_speed();
    fields[OUTSIDE_PHY_ID] =
        mdio_read(PS_PHY_ADDRESS, ID_HIGH) << 16 | mdio_read(PS_PHY_ADDRESS, ID_LOW);
    tell_clock(fields);
    for (uint32_t port = 0; port < 4; port++) {
        uint32_t *ours = fields + OUTSIDE_HP0_READ_MODE + 4 * port, at = PS_PORT + 0x1000 * port;
        ours[0] = reg_read(at + PS_PORT_READ_MODE);
        ours[1] = reg_read(at + PS_PORT_READ_COMMANDS);
        ours[2] = reg_read(at + PS_PORT_WRITE_MODE);
        ours[3] = reg_read(at + PS_PORT_WRITE_COMMANDS);
    }
}

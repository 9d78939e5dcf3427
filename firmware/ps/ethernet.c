// The processing system's Ethernet: what happens once, and what changes with the link.
#include "board.h"
#include "gem.h"
#include "outside.h"
#include "uart.h"
#include <generated/ps.h>

static bool negotiated;
static uint32_t speed, last;

void ethernet_init(void)
{
    // only the firmware was restarted: hosts are being served
    if (!ethphy_enable_read() || !gem_runs()) {
        ethphy_enable_write(0);
        while (!ethphy_idle_read())
            ;
        gem_start();
        ethphy_enable_write(1);
    }
    last = cycles_low() - PS_LOOK_CYCLES;
}

uint32_t ethernet_speed(void)
{
    return speed;
}

static void tell(void)
{
    if (!speed) {
        uart_text("\nEthernet: no link\n");
        return;
    }
    uart_text(speed == 1000 ? "\nEthernet: 1000"
                            : (speed == 100 ? "\nEthernet: 100" : "\nEthernet: 10"));
    uart_text(" Mbit/s\n");
}

void ethernet_serve(void)
{
    if (cycles_low() - last < (speed ? PS_LOOK_CYCLES : PS_LOOK_CYCLES / 10))
        return;
    last = cycles_low();
    if (!negotiated) {
        negotiated = phy_start();
        return;
    }
    uint32_t now = phy_speed(speed);
    if (now != speed) {
        speed = now;
        if (speed)
            gem_set_speed(speed);
        tell();
    }
    if (speed)
        gem_wake();
}

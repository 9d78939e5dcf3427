// Any PHY with the registers of IEEE 802.3, clauses 22 and 40.
#include "gem.h"
#include "reg.h"

enum { CONTROL, STATUS, ID, ADVERTISE = 4, PARTNER, GIGABIT = 9, GIGABIT_PARTNER };
#define RESET 0x8000u // of CONTROL
#define NEGOTIATE 0x1000u
#define RESTART 0x0200u
#define LINK 0x0004u      // of STATUS; low once if it was away
#define CAN_100 0x0100u   // of ADVERTISE and PARTNER, full duplex
#define CAN_10_100 0x01e1 // half duplex as well
#define CAN_1000 0x0200u  // of GIGABIT; GIGABIT_PARTNER has it two bits higher
// Marvell's: the page with the delays of RGMII
enum { DELAYS = 21, PAGE = 22, DELAYS_PAGE = 2 };
#define BOTH_DELAYS 0x0030u

static uint32_t get(uint32_t reg)
{
    return mdio_read(PS_PHY_ADDRESS, reg);
}

static void set(uint32_t reg, uint32_t value)
{
    mdio_write(PS_PHY_ADDRESS, reg, value);
}

bool phy_start(void)
{
    uint32_t id = get(ID);
    if (id == 0xffff || id == 0)
        return false;
    if (get(ADVERTISE) == CAN_10_100 && get(GIGABIT) == CAN_1000)
        return true; // it was told before the firmware or the SoC was restarted: the link stays up
    if (PS_PHY_TOLD_DELAYS) {
        set(PAGE, DELAYS_PAGE);
        set(DELAYS, get(DELAYS) | BOTH_DELAYS);
        set(PAGE, 0);
        set(CONTROL, RESET | NEGOTIATE); // takes the delays over
        for (uint32_t i = 0; i < 1000 && get(CONTROL) & RESET; i++)
            ;
    }
    set(ADVERTISE, CAN_10_100);
    set(GIGABIT, CAN_1000);
    set(CONTROL, NEGOTIATE | RESTART);
    return true;
}

uint32_t phy_speed(uint32_t before)
{
    if (get(STATUS) & LINK && before)
        return before;
    if (!(get(STATUS) & LINK))
        return 0;
    if (get(GIGABIT) & get(GIGABIT_PARTNER) >> 2 & CAN_1000)
        return 1000;
    return get(ADVERTISE) & get(PARTNER) & CAN_100 ? 100 : 10;
}

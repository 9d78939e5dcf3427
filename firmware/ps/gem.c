#include "gem.h"

#include "reg.h"

#define CONTROL(bit) (1u << PS_GEM_CONTROL_##bit)
#define CONFIG(bit) (1u << PS_GEM_CONFIG_##bit)
#define RUNNING (CONTROL(RX) | CONTROL(TX) | CONTROL(MDIO))
#define BASIC                                                                                      \
    (CONFIG(FULL_DUPLEX) | CONFIG(FRAMES_1536) | CONFIG(STRIP_CRC) |                               \
     PS_GEM_MDC << PS_GEM_CONFIG_MDC)
#define SPEED (CONFIG(MBIT_100) | CONFIG(GIGABIT))
// bursts of 16 words, all of the packet memory, the size of a buffer
#define DMA (0x10u | 3u << 8 | 1u << 10 | (PS_BUFFER_BYTES / 64) << 16)
#define RX_WRAP 2u // of a descriptor's first word; of its second:
#define TX_WRAP (1u << 30)
#define TX_SENT (1u << 31)
#define MDIO_TRIES 10000u
#define MDIO_READ 0x60020000u
#define MDIO_WRITE 0x50020000u
#define REVISION 2u // of module_id: the one that can fall deaf

static uint32_t quiet; // tenths of a second in which nothing came

static void write(uint32_t offset, uint32_t value)
{
    reg_write(PS_GEM + offset, value);
}

static uint32_t read(uint32_t offset)
{
    return reg_read(PS_GEM + offset);
}

static void fill_rings(void)
{
    for (uint32_t i = 0; i < PS_RX_BUFFERS; i++) {
        reg_write(PS_RX_RING + 8 * i + 4, 0);
        reg_write(PS_RX_RING + 8 * i,
                  (PS_RX_FRAMES + PS_BUFFER_BYTES * i) | (i == PS_RX_BUFFERS - 1 ? RX_WRAP : 0));
    }
    for (uint32_t i = 0; i < PS_TX_BUFFERS; i++)
        reg_write(PS_TX_RING + 8 * i + 4, TX_SENT | (i == PS_TX_BUFFERS - 1 ? TX_WRAP : 0));
}

void gem_start(void)
{
    write(PS_GEM_NET_CTRL, 0);
    write(PS_GEM_INTR_DIS, ~0u);
    write(PS_GEM_TX_STATUS, ~0u);
    write(PS_GEM_RX_STATUS, ~0u);
    fill_rings();
    write(PS_GEM_RX_QBAR, PS_RX_RING);
    write(PS_GEM_TX_QBAR, PS_TX_RING);
    write(PS_GEM_SPEC_ADDR1_BOT, PS_MAC_LOW);
    write(PS_GEM_SPEC_ADDR1_TOP, PS_MAC_HIGH);
    write(PS_GEM_DMA_CFG, DMA);
    write(PS_GEM_NET_CFG, BASIC);
    write(PS_GEM_NET_CTRL, RUNNING);
}

bool gem_runs(void)
{
    return (read(PS_GEM_NET_CTRL) & RUNNING) == RUNNING &&
           (read(PS_GEM_NET_CFG) & ~SPEED) == BASIC && read(PS_GEM_DMA_CFG) == DMA;
}

void gem_set_speed(uint32_t mbits)
{
    uint32_t clock =
        mbits == 1000 ? PS_GEM_CLOCK_1000 : (mbits == 100 ? PS_GEM_CLOCK_100 : PS_GEM_CLOCK_10);
    uint32_t speed = mbits == 1000 ? CONFIG(GIGABIT) : (mbits == 100 ? CONFIG(MBIT_100) : 0);
    reg_write(PS_SLCR_UNLOCK, PS_SLCR_UNLOCK_KEY);
    reg_write(PS_GEM_CLK_CTRL, clock);
    reg_write(PS_SLCR_LOCK, PS_SLCR_LOCK_KEY);
    write(PS_GEM_NET_CFG, BASIC | speed);
}

void gem_wake(void)
{
    if (read(PS_GEM_FRAMES_RX))
        quiet = 0;
    else if (++quiet >= 2 && (read(PS_GEM_MODULE_ID) >> 16 & 0xfff) == REVISION) {
        // the transmitter stays on: switched off, it would forget its place in the ring
        write(PS_GEM_NET_CTRL, RUNNING & ~CONTROL(RX));
        write(PS_GEM_NET_CTRL, RUNNING);
        quiet = 0;
    }
}

static bool mdio_idle(void)
{
    for (uint32_t i = 0; i < MDIO_TRIES; i++)
        if (read(PS_GEM_NET_STATUS) >> PS_GEM_STATUS_MDIO_IDLE & 1)
            return true;
    return false;
}

uint32_t mdio_read(uint32_t phy, uint32_t reg)
{
    if (!mdio_idle())
        return 0xffff;
    write(PS_GEM_PHY_MAINT, MDIO_READ | phy << 23 | reg << 18);
    return mdio_idle() ? read(PS_GEM_PHY_MAINT) & 0xffff : 0xffff;
}

void mdio_write(uint32_t phy, uint32_t reg, uint32_t value)
{
    if (mdio_idle())
        write(PS_GEM_PHY_MAINT, MDIO_WRITE | phy << 23 | reg << 18 | value);
}

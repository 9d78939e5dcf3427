// Drives the processing system's Ethernet controller with the firmware's own driver (firmware/ps),
// and walks its rings as gateware/ps/gem.py does. Frames come back with their addresses swapped;
// what their first byte behind the type says is done before.
#include "gem.h"
#include "reg.h"

enum { ECHO, WAKE, REPORT, PAUSE, RESTART };
#define USED 1u
#define SENT (1u << 31)
#define LAST (1u << 15)
#define TX_WRAP (1u << 30)
#define START (1u << PS_GEM_CONTROL_START)
#define RUNNING \
    ((1u << PS_GEM_CONTROL_RX) | (1u << PS_GEM_CONTROL_TX) | (1u << PS_GEM_CONTROL_MDIO))
#define HEADER 14  // bytes of a frame before the command

static uint32_t rx, tx, speed;

static void send(const volatile uint8_t *frame, uint32_t length) {
    uint32_t place = PS_TX_RING + 8 * tx, buffer = PS_TX_FRAMES + PS_BUFFER_BYTES * tx;
    volatile uint8_t *out = (volatile uint8_t *)buffer;
    while (!(reg_read(place + 4) & SENT));
    for (uint32_t i = 0; i < length; i++) out[i] = frame[i < 6 ? i + 6 : (i < 12 ? i - 6 : i)];
    reg_write(place, buffer);
    reg_write(place + 4, length | LAST | (tx == PS_TX_BUFFERS - 1 ? TX_WRAP : 0));
    reg_write(PS_GEM + PS_GEM_NET_CTRL, RUNNING | START);
    tx = (tx + 1) % PS_TX_BUFFERS;
}

static void obey(volatile uint8_t *frame) {
    volatile uint8_t *answer = frame + HEADER + 1;
    switch (frame[HEADER]) {
        case WAKE:
            for (int i = 0; i < 6; i++) gem_wake();
            break;
        case REPORT:
            speed = phy_speed(speed);
            answer[0] = gem_runs();
            answer[1] = (uint8_t)(speed >> 8);
            answer[2] = (uint8_t)speed;
            answer[3] = mdio_read(PS_PHY_ADDRESS ^ 1, 2) == 0xffff;  // nobody is there
            break;
        case PAUSE:  // longer than it takes to fill the ring
            for (volatile uint32_t i = 0; i < 300000000; i++)
                if (reg_read(PS_RX_RING + 8 * ((rx + PS_RX_BUFFERS - 1) % PS_RX_BUFFERS)) & USED)
                    break;
            break;
    }
}

int main(void);
int main(void) {
    gem_start();
    while (!phy_start());
    while (!(speed = phy_speed(0)));
    gem_set_speed(speed);
    for (;;) {
        uint32_t place = PS_RX_RING + 8 * rx, descriptor = reg_read(place);
        if (!(descriptor & USED)) continue;
        volatile uint8_t *frame = (volatile uint8_t *)(PS_RX_FRAMES + PS_BUFFER_BYTES * rx);
        bool restart = frame[HEADER] == RESTART;
        obey(frame);
        send(frame, reg_read(place + 4) & 0x1fff);
        reg_write(place, descriptor & ~USED);
        rx = (rx + 1) % PS_RX_BUFFERS;
        if (restart) {
            while (!(reg_read(PS_TX_RING + 8 * ((tx + PS_TX_BUFFERS - 1) % PS_TX_BUFFERS) + 4) &
                     SENT));
            rx = tx = 0;
            gem_start();
            gem_set_speed(speed);
        }
    }
}

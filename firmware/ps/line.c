// The processing system's UART: its rate. Bytes come and go through the SoC's own UART
// (gateware/ps/uart.py).
#include "board.h"
#include "outside.h"
#include "reg.h"

#define LEAST_SAMPLES 5u // of a bit
#define MOST_SAMPLES 256u
#define MOST_DIVISOR 0xffffu
#define BITS_ON ((1u << PS_UART_CONTROL_RX_ON) | (1u << PS_UART_CONTROL_TX_ON))
#define BITS_OFF ((1u << PS_UART_CONTROL_RX_OFF) | (1u << PS_UART_CONTROL_TX_OFF))
#define BITS_RESET ((1u << PS_UART_CONTROL_RX_RESET) | (1u << PS_UART_CONTROL_TX_RESET))

// The divisor and the samples of a bit that come nearest; how far off that is, in Hz of the clock.
static uint32_t nearest(uint32_t baud, uint32_t *divisor, uint32_t *samples)
{
    uint32_t best = ~0u;
    for (uint32_t n = LEAST_SAMPLES; n <= MOST_SAMPLES && baud; n++) {
        uint32_t by = (PS_UART_HZ / n + baud / 2) / baud;
        if (by == 0)
            break;
        if (by > MOST_DIVISOR)
            continue;
        uint32_t made = by * n * baud;
        uint32_t off = made > PS_UART_HZ ? made - PS_UART_HZ : PS_UART_HZ - made;
        if (off < best) {
            best = off;
            *divisor = by;
            *samples = n;
        }
    }
    return best;
}

bool line_can(uint32_t baud)
{
    uint32_t divisor, samples;
    return nearest(baud, &divisor, &samples) <= PS_UART_HZ / 50; // either end may be 2 % off
}

void line_set(uint32_t baud)
{
    uint32_t divisor = 1, samples = LEAST_SAMPLES;
    nearest(baud, &divisor, &samples);
    reg_write(PS_UART + PS_UART_CONTROL, BITS_OFF);
    reg_write(PS_UART + PS_UART_BAUDGEN, divisor);
    reg_write(PS_UART + PS_UART_BAUDDIV, samples - 1);
    reg_write(PS_UART + PS_UART_CONTROL, BITS_ON | BITS_RESET);
}

void line_drain(void)
{
    uint32_t status;
    do {
        watchdog_feed();
        status = reg_read(PS_UART + PS_UART_STATUS);
    } while (!uart_txempty_read() || !(status >> PS_UART_STATUS_TX_EMPTY & 1) ||
             status >> PS_UART_STATUS_TX_ACTIVE & 1);
}

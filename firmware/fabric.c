// UART and Ethernet of the fabric.
#include "board.h"
#include "outside.h"
#include <generated/datagram.h>
#include <generated/protocol.h>

bool line_can(uint32_t baud)
{
    return baud <= CONFIG_CLOCK_FREQUENCY / 16;
}

void line_set(uint32_t baud)
{
    uint32_t rest = baud, word = 0; // baud * 2^32 / clock
    for (int bit = 0; bit < 32; bit++) {
        rest <<= 1;
        word <<= 1;
        if (rest >= CONFIG_CLOCK_FREQUENCY) {
            rest -= CONFIG_CLOCK_FREQUENCY;
            word |= 1;
        }
    }
    uart_phy_tuning_word_write(word);
}

void line_drain(void)
{
    while (!uart_txempty_read())
        watchdog_feed();
    uint32_t start = cycles_low();
    // the last byte is on the line
    while (cycles_low() - start < 12 * (CONFIG_CLOCK_FREQUENCY / DATAGRAM_BASE_RATE))
        ;
}

void ethernet_init(void)
{
}

void ethernet_serve(void)
{
}

void outside_tell(uint32_t *fields)
{
    fields[OUTSIDE_PROCESSING_SYSTEM] = 0;
}

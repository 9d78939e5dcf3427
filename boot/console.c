#include "boot.h"

#define STATUS (BOARD_UART + BOARD_UART_STATUS)
#define FIFO (BOARD_UART + BOARD_UART_FIFO)
#define BYTE_MS 10 // a byte takes 0.1 at 115,200 baud

static void put(char byte)
{
    if (BOARD_UART && hw_wait(STATUS, 1u << BOARD_UART_TX_FULL, false, BYTE_MS))
        hw_write(FIFO, (uint8_t)byte);
}

void say(const char *text)
{
    for (; *text; text++) {
        if (*text == '\n')
            put('\r');
        put(*text);
    }
}

void say_number(uint32_t number)
{
    char digits[11];
    uint32_t at = sizeof digits - 1;
    digits[at] = 0;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    say(digits + at);
}

void say_hex(uint32_t word)
{
    for (int shift = 28; shift >= 0; shift -= 4)
        put("0123456789ABCDEF"[word >> shift & 15]);
}

void say_drained(void)
{
    if (BOARD_UART) {
        hw_wait(STATUS, 1u << BOARD_UART_TX_EMPTY, true, 64 * BYTE_MS);
        hw_wait(STATUS, 1u << BOARD_UART_TX_ACTIVE, false, BYTE_MS);
    }
}

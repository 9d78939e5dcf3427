#include "boot.h"

// The global timer of the ARM cores (UG585, "Global Timer Counter").
#define TIMER_LOW 0xf8f00200u
#define TIMER_CONTROL 0xf8f00208u
#define TICKS (BOARD_TIMER_HZ / 1000u)
// Where the boot ROM lets the second core look for an address when it wakes (UG585, "CPU 1").
#define SECOND_CORE 0xfffffff0u

void park(void);

uint32_t hw_read(uint32_t address)
{
    return *(volatile uint32_t *)address;
}

void hw_write(uint32_t address, uint32_t value)
{
    *(volatile uint32_t *)address = value;
    __asm__ volatile("dsb" ::: "memory");
}

void hw_start_timer(void)
{
    hw_write(TIMER_CONTROL, 1);
}

bool hw_wait(uint32_t address, uint32_t mask, bool set, uint32_t milliseconds)
{
    uint32_t begun = hw_read(TIMER_LOW);
    do {
        if (((hw_read(address) & mask) != 0) == set)
            return true;
    } while (hw_read(TIMER_LOW) - begun < milliseconds * TICKS);
    return ((hw_read(address) & mask) != 0) == set;
}

void hw_delay(uint32_t milliseconds)
{
    uint32_t begun = hw_read(TIMER_LOW);
    while (hw_read(TIMER_LOW) - begun < milliseconds * TICKS)
        ;
}

void hw_park(void)
{
    hw_write(SECOND_CORE, (uint32_t)(uintptr_t)park);
    __asm__ volatile("sev");
    park();
    __builtin_unreachable();
}

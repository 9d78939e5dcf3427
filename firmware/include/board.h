// Registers and memory of the SoC, from the generated LiteX headers; caches; time.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define CSR_ACCESSORS_DEFINED
static inline void csr_write_simple(unsigned long value, unsigned long address)
{
    *(volatile uint32_t *)address = value;
}
static inline unsigned long csr_read_simple(unsigned long address)
{
    return *(volatile uint32_t *)address;
}
#include <generated/mem.h> // before the other, which defines some of the same names without sizes
//
#include <generated/csr.h>

// DDR as the CPU sees it; `offset` is a DDR address as the TVU uses it, in physical order.
static inline volatile uint32_t *ddr_word(uint32_t offset)
{
    return (volatile uint32_t *)(MAIN_RAM_BASE + offset);
}

// Forgets cached DDR contents: needed before the CPU reads what the TVU or the host wrote.
static inline void cache_forget(void)
{
    __asm__ volatile(".word 0x500F" ::: "memory");
}

// Waits until the CPU's own stores have left it: the bus answers in order, so any uncached load
// does.
static inline void stores_drain(void)
{
    (void)uart_txfull_read();
}

// One store of a long row. While stores follow one another the bus is the CPU's, and hosts would
// take memory for dead: a load lets others have their turn.
static inline void ddr_put(uint32_t offset, uint32_t value)
{
    *ddr_word(offset) = value;
    if (offset % 256 == 0)
        stores_drain();
}

// Tells the watchdog that the firmware gets on. Whoever loops for longer than some ten milliseconds
// calls it.
static inline void watchdog_feed(void)
{
    watchdog_feed_write(WATCHDOG_CYCLES);
}

static inline uint32_t cycles_low(void)
{
    uint32_t value;
    __asm__ volatile("csrr %0, mcycle" : "=r"(value));
    return value;
}

static inline uint64_t cycles(void)
{
    uint32_t high, low, again;
    do {
        __asm__ volatile("csrr %0, mcycleh" : "=r"(high));
        low = cycles_low();
        __asm__ volatile("csrr %0, mcycleh" : "=r"(again));
    } while (high != again);
    return (uint64_t)high << 32 | low;
}

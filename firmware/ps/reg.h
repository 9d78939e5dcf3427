// Registers of the processing system, by their addresses. Nothing here knows whose CPU this is.
#pragma once

#include <generated/ps.h>
#include <stdint.h>

static inline void reg_write(uint32_t address, uint32_t value)
{
    *(volatile uint32_t *)(uintptr_t)address = value;
}

static inline uint32_t reg_read(uint32_t address)
{
    return *(volatile uint32_t *)(uintptr_t)address;
}

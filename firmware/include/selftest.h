// Checks the TVU against expected values; 0 if all are right, else the number of the first wrong
// scalar register plus one.
#pragma once

#include <stdint.h>

uint32_t selftest(void);

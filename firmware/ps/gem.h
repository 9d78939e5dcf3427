// The processing system's Ethernet controller and the PHY behind it. Frames are moved by whoever
// walks the rings: gateware/ps/gem.py.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Sets both rings up and starts, at 10 Mbit/s. Nobody may touch the rings meanwhile.
void gem_start(void);
bool gem_runs(void); // as gem_start left it
void gem_set_speed(uint32_t mbits);

// To be called ten times a second: under heavy traffic the receiver can fall deaf, and has to be
// switched off and on (erratum, SI #692601).
void gem_wake(void);

// A register of a PHY; all ones if nobody answers.
uint32_t mdio_read(uint32_t phy, uint32_t reg);
void mdio_write(uint32_t phy, uint32_t reg, uint32_t value);

// Starts to negotiate, unless that was done before. False: there is no PHY (yet).
bool phy_start(void);
// What ethernet.c found last, in Mbit/s; 0: no link.
uint32_t ethernet_speed(void);
// Speed of the link in Mbit/s; 0: there is none. `before` is what it was when this was called last.
uint32_t phy_speed(uint32_t before);

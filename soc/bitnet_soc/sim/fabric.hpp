// A board whose UART and Ethernet are the fabric's own, and whose main memory the CPU reaches by a
// bus of its own.
#pragma once

#include "Vsoc.h"
#include "ddr.hpp"
#include "network.hpp"
#include "serial.hpp"

// Main memory as the CPU and Etherbone see it: single accesses and incrementing bursts on Wishbone.
class MainRam {
  public:
    MainRam(Vsoc *top, Ddr &ddr) : top_(top), ddr_(ddr) {}

    void sample();
    void drive();

    bool stalled = false;  // it answers nothing

  private:
    Vsoc *top_;
    Ddr &ddr_;
    bool request_ = false, acked_ = false, write_ = false, burst_ = false;
    uint64_t address_ = 0;
    uint32_t data_ = 0;
    int select_ = 0, wait_ = -1;
};

class Fabric {
  public:
    Fabric(Vsoc *top, Ddr &ddr, int udp_port, int tcp_port, bool hostile, uint32_t seed);

    void sample();           // before the rising edge
    void drive(bool quiet);  // after it; quiet: nothing comes from outside
    void poll();
    void reset();  // the SoC was reset: frames and bytes that are half through are lost
    bool obey(const char *command);

    Serial serial;
    Network network;

  private:
    Vsoc *top_;
    MainRam ram_;
    bool serial_out_ = false, serial_taken_ = false, eth_out_ = false, eth_last_ = false;
    uint8_t serial_byte_ = 0, eth_byte_ = 0;
};

// The processing system behind the SoC's ports: UART, Ethernet, system registers,
// on-chip memory and DDR, started by the very steps that a Zybo Z7-20 is started with. Blocks have
// to have been given a clock: one without never answers. None of it is reset with the SoC.
#pragma once

#include "../ddr.hpp"
#include "../network.hpp"
#include "../serial.hpp"
#include "Vsoc.h"
#include "gem.hpp"
#include "gp_port.hpp"
#include "phy.hpp"
#include "uart.hpp"

#include <memory>
#include <unordered_map>

class ProcessingSystem : public GpTarget {
  public:
    ProcessingSystem(Vsoc *top, Ddr &ddr, int udp_port, int tcp_port, bool hostile, uint32_t seed);

    void sample();
    void drive(bool quiet);
    void poll();
    void reset();
    bool obey(const char *command);  // false: it is not for this

    Answer read(uint32_t address, uint32_t &word) override;
    Answer write(uint32_t address, uint32_t word, unsigned strobe) override;
    bool is_memory(uint32_t address) const override;
    int latency(uint32_t address, int words, bool write) override;

    Serial serial;
    Network network;

  private:
    void start();
    void check_ties();
    bool has_clock(uint32_t address);
    Answer reach(uint32_t address, uint32_t &word, bool write, unsigned strobe);
    void system_write(uint32_t address, uint32_t word);
    void set_port(uint32_t address, uint32_t word);
    uint32_t system(uint32_t address) { return system_[address]; }
    uint32_t timer_count();
    double io_pll_hz();
    double gem_hz();
    double uart_hz();
    double peripheral_bus_hz();

    Vsoc *top_;
    Ddr &ddr_;
    std::unique_ptr<uint8_t[]> on_chip_;
    Phy phy_;
    PsUart uart_;
    Gem gem_;
    std::unordered_map<uint32_t, uint32_t> system_;
    uint64_t timer_start_ = 0;
    bool locked_ = true, clocks_known_ = false, ties_checked_ = false;
    double uart_ratio_ = 0, gem_clock_ = 0, bus_clock_ = 0;
    GpPort gp0_, gp1_;
};

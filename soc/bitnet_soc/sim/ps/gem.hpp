// The Ethernet controller of the processing system (UG585, "Gigabit Ethernet Controller", appendix
// B): registers, rings of buffers in on-chip memory, MDIO. The line behind it is Network, a byte
// every 1, 10 or 100 cycles. Frames come through only if controller, clock and PHY agree on the
// speed.
//
// It can be made to fall deaf, as the silicon does under heavy traffic (SI #692601): nothing is
// received, nor counted, until the receiver was switched off.
#pragma once

#include "../network.hpp"
#include "phy.hpp"

#include <cstdint>
#include <vector>

class Gem {
  public:
    // `memory` is what lies at `base`
    Gem(Network &network, Phy &phy, uint8_t *memory, uint32_t base, uint32_t bytes)
        : network_(network), phy_(phy), memory_(memory), base_(base), bytes_(bytes) {}

    uint32_t read(uint32_t offset);
    void write(uint32_t offset, uint32_t word);
    void tick(double transmit_hz, double management_hz);  // clocks of its transmitter and of MDIO

    bool deaf = false;

  private:
    enum {
        CONTROL = 0x00,
        CONFIG = 0x04,
        STATUS = 0x08,
        DMA = 0x10,
        TX_STATUS = 0x14,
        RX_RING = 0x18,
        TX_RING = 0x1C,
        RX_STATUS = 0x20,
        MDIO = 0x34,
        ADDRESS_LOW = 0x88,
        ADDRESS_HIGH = 0x8C,
        TX_FRAMES = 0x108,
        RX_FRAMES = 0x158,
        RX_RESOURCE = 0x1A0,
        ID = 0xFC,
        REGISTERS = 0x400
    };
    using Bytes = std::vector<uint8_t>;

    int speed() const;                 // that controller, clock and PHY agree on, in Mbit/s, or 0
    uint32_t *word(uint32_t address);  // of memory
    bool is_for_us(const Bytes &frame);
    void deliver(const Bytes &frame);
    void receive(int cycles_per_byte);
    void transmit(int cycles_per_byte);
    bool next_to_send();
    void manage(uint32_t word);

    Network &network_;
    Phy &phy_;
    uint8_t *memory_;
    uint32_t base_, bytes_;
    uint32_t registers_[REGISTERS / 4] = {};
    double transmit_hz_ = 0, management_hz_ = 0;
    uint32_t rx_place_ = 0, tx_place_ = 0, sent_place_ = 0;
    bool sending_ = false, on_line_ = false;
    Bytes incoming_, outgoing_;
    int rx_wait_ = 0, mdio_wait_ = 0;
    int64_t tx_wait_ = 0;
};

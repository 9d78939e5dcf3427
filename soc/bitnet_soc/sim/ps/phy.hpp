// An Ethernet PHY behind MDIO: the registers that every PHY has (IEEE 802.3, clause 22), and those
// for the delays of RGMII as Marvell's have them.
#pragma once

#include <cstdint>

class Phy {
  public:
    // `told`: it delays the clocks of RGMII only when it is told to
    Phy(int address, uint32_t id, bool told) : address_(address), id_(id), told_(told) { reset(); }

    uint16_t read(int address, int reg);
    void write(int address, int reg, uint16_t value);
    void tick();
    // The cable: speed of the other end in Mbit/s, 0: it is out.
    void plug(int speed);

    int speed() const { return negotiating_ ? 0 : speed_; }  // of the link, 0: there is none
    bool delays() const { return !told_ || (delays_ & 0x30) == 0x30; }

  private:
    enum {
        CONTROL,
        STATUS,
        ID1,
        ID2,
        ADVERTISE,
        PARTNER,
        GIGABIT = 9,
        GIGABIT_PARTNER,
        RGMII = 21,
        PAGE = 22
    };
    static constexpr int NEGOTIATION = 250'000;  // cycles; some seconds in a real one

    void reset();
    void negotiate();

    int address_;
    uint32_t id_;
    bool told_;
    uint16_t control_, advertise_, gigabit_, page_, delays_wanted_ = 0, delays_ = 0;
    int other_ = 1000, speed_ = 0, negotiating_ = 0;
    bool was_down_ = true;  // since the status was read last
};

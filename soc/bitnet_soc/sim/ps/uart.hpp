// A UART of the processing system: FIFOs of 64 bytes, its rate from its registers (UG585, "UART
// Controller", appendix B). The other end of the line is Serial. Slow rates are not as slow as they
// would be: hosts are patient by their own clock, by which a simulated second takes minutes.
#pragma once

#include "../serial.hpp"

#include <cstdint>
#include <deque>

class PsUart {
  public:
    explicit PsUart(Serial &serial) : serial_(serial) {}

    uint32_t read(uint32_t offset);
    void write(uint32_t offset, uint32_t word);
    void tick(double clock_ratio);  // cycles of its clock in a cycle of the fabric

  private:
    enum {
        CONTROL = 0x00,
        MODE = 0x04,
        BAUDGEN = 0x18,
        STATUS = 0x2C,
        FIFO = 0x30,
        BAUDDIV = 0x34
    };
    static constexpr size_t DEPTH = 64;
    static constexpr int BITS = 10;             // of a byte on the line
    static constexpr double MOST_CYCLES = 420;  // of the fabric that a byte takes: 3,000,000 baud

    Serial &serial_;
    uint32_t control_ = 0x128, mode_ = 0, divisor_ = 0x28B, samples_ = 0xF;  // after its reset
    std::deque<uint8_t> received_, waiting_;
    double sending_ = 0, receiving_ = 0;  // cycles until the byte is through
    bool in_flight_ = false;
    uint8_t flying_ = 0;
};

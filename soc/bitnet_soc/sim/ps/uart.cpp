#include "uart.hpp"

#include <algorithm>

enum { RX_RESET = 1, TX_RESET = 2, RX_ON = 4, RX_OFF = 8, TX_ON = 16, TX_OFF = 32 };
enum { RX_EMPTY = 2, RX_FULL = 4, TX_EMPTY = 8, TX_FULL = 16, TX_ACTIVE = 1 << 11 };

uint32_t PsUart::read(uint32_t offset) {
    switch (offset) {
        case CONTROL:
            return control_;
        case MODE:
            return mode_;
        case BAUDGEN:
            return divisor_;
        case BAUDDIV:
            return samples_;
        case STATUS:
            return (received_.empty() ? RX_EMPTY : 0) | (received_.size() >= DEPTH ? RX_FULL : 0) |
                   (waiting_.empty() ? TX_EMPTY : 0) | (waiting_.size() >= DEPTH ? TX_FULL : 0) |
                   (in_flight_ ? TX_ACTIVE : 0);
        case FIFO: {
            if (received_.empty()) return 0;
            uint8_t byte = received_.front();
            received_.pop_front();
            return byte;
        }
        default:
            return 0;
    }
}

void PsUart::write(uint32_t offset, uint32_t word) {
    switch (offset) {
        case CONTROL:
            if (word & RX_RESET) received_.clear();
            if (word & TX_RESET) {
                waiting_.clear();
                in_flight_ = false;
            }
            control_ = word & ~(RX_RESET | TX_RESET);
            break;
        case MODE:
            mode_ = word;
            break;
        case BAUDGEN:
            divisor_ = word & 0xFFFF;
            break;
        case BAUDDIV:
            samples_ = word & 0xFF;
            break;
        case FIFO:
            if (waiting_.size() < DEPTH) waiting_.push_back(word);
            break;
    }
}

void PsUart::tick(double clock_ratio) {
    bool frames = mode_ == 0x20 && divisor_ && samples_ >= 4;  // 8 bits, no parity, one stop bit
    if (sending_ > 0) sending_--;
    if (receiving_ > 0) receiving_--;
    if (!frames || clock_ratio <= 0) return;
    double bit = static_cast<double>(divisor_) * (samples_ + 1) / clock_ratio;  // cycles
    double byte = std::min(BITS * bit, MOST_CYCLES);
    serial_.set_tuning_word(4294967296.0 / bit);
    if (sending_ <= 0 && in_flight_) {
        serial_.from_soc(flying_);
        in_flight_ = false;
    }
    if (sending_ <= 0 && !waiting_.empty() && control_ & TX_ON && !(control_ & TX_OFF)) {
        flying_ = waiting_.front();
        waiting_.pop_front();
        in_flight_ = true;
        // the last one as long as it does: who changes the rate has to wait for it
        sending_ += waiting_.empty() ? BITS * bit : byte;
    }
    if (receiving_ <= 0 && serial_.to_soc_pending()) {
        bool on = control_ & RX_ON && !(control_ & RX_OFF);
        // what finds no place, or nobody who listens, is lost
        if (on && received_.size() < DEPTH) received_.push_back(serial_.to_soc_front());
        serial_.to_soc_pop();
        receiving_ += byte;
    }
}

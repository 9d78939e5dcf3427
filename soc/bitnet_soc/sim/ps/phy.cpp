#include "phy.hpp"

enum { RESET = 1 << 15, NEGOTIATE = 1 << 12, RESTART = 1 << 9 };  // of CONTROL
enum { CAN_ALL = 0x7949, NEGOTIATED = 1 << 5, LINK = 1 << 2 };    // of STATUS
enum { CAN_10 = 3 << 5, CAN_100 = 3 << 7, CAN_1000 = 1 << 9 };    // half and full duplex

void Phy::reset() {
    control_ = NEGOTIATE;
    advertise_ = CAN_10 | CAN_100 | 1;
    gigabit_ = CAN_1000;
    page_ = 0;
    delays_ = delays_wanted_;  // they are taken over by a reset
    negotiate();
}

void Phy::negotiate() {
    speed_ = 0;
    was_down_ = true;
    negotiating_ = NEGOTIATION;
}

void Phy::plug(int speed) {
    other_ = speed;
    negotiate();
}

void Phy::tick() {
    if (!negotiating_ || --negotiating_) return;
    bool can = (other_ == 1000 && gigabit_ & CAN_1000) || (other_ == 100 && advertise_ & CAN_100) ||
               (other_ == 10 && advertise_ & CAN_10);
    speed_ = can ? other_ : 0;
}

uint16_t Phy::read(int address, int reg) {
    if (address != address_) return 0xFFFF;
    bool up = speed() != 0;
    switch (reg) {
        case CONTROL:
            return control_;
        case STATUS: {
            uint16_t status = CAN_ALL | (up ? NEGOTIATED : 0) | (up && !was_down_ ? LINK : 0);
            was_down_ = !up;
            return status;
        }
        case ID1:
            return id_ >> 16;
        case ID2:
            return id_;
        case ADVERTISE:
            return advertise_;
        case PARTNER:  // what is slower the other end can as well
            return up ? 0x4001 | CAN_10 | (other_ >= 100 ? CAN_100 : 0) : 0;
        case GIGABIT:
            return gigabit_;
        case GIGABIT_PARTNER:
            return up && other_ == 1000 ? 0x0800 : 0;
        case RGMII:
            return page_ == 2 ? delays_wanted_ : 0;
        case PAGE:
            return page_;
        default:
            return 0;
    }
}

void Phy::write(int address, int reg, uint16_t value) {
    if (address != address_) return;
    switch (reg) {
        case CONTROL:
            if (value & RESET) {
                reset();
            } else {
                control_ = value & ~RESTART;
                if (value & RESTART && value & NEGOTIATE) negotiate();
            }
            break;
        case ADVERTISE:
            advertise_ = value;
            break;
        case GIGABIT:
            gigabit_ = value;
            break;
        case RGMII:
            if (page_ == 2) delays_wanted_ = value;
            break;
        case PAGE:
            page_ = value;
            break;
    }
}

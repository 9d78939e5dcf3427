#include "gem.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

enum { RX_ON = 1 << 2, TX_ON = 1 << 3, MDIO_ON = 1 << 4, START = 1 << 9, HALT = 1 << 10 };
enum {
    MBIT_100 = 1,
    FULL_DUPLEX = 2,
    COPY_ALL = 1 << 4,
    NO_BROADCAST = 1 << 5,
    FRAMES_1536 = 1 << 8,
    MBIT_1000 = 1 << 10,
    STRIP_CRC = 1 << 17
};  // of CONFIG
enum { MDIO_IDLE = 1 << 2 };  // of STATUS
enum { USED = 1, WRAP = 2, FIRST = 1 << 14, LAST = 1 << 15, TX_WRAP = 1 << 30 };
static constexpr uint32_t SENT = 1u << 31;
enum { NO_BUFFER = 1, FRAME_CAME = 2 };            // of RX_STATUS
enum { USED_READ = 1, GOING = 8, DONE = 1 << 5 };  // of TX_STATUS
static constexpr size_t LEAST = 60;                // bytes of a frame; the controller fills up
static constexpr int OVERHEAD = 24;                // bytes on the line: preamble, checksum, gap
static constexpr double FABRIC_HZ = 125e6, MOST_MDC_HZ = 2.5e6;

static const int MDC_DIVISORS[8] = {8, 16, 32, 48, 64, 96, 128, 224};

uint32_t *Gem::word(uint32_t address) {
    if (address < base_ || address - base_ > bytes_ - 4) {
        fprintf(stderr, "the Ethernet controller reaches for 0x%x, which is not on-chip memory\n",
                address);
        exit(3);
    }
    return reinterpret_cast<uint32_t *>(memory_ + (address - base_ & ~3u));
}

int Gem::speed() const {
    uint32_t config = registers_[CONFIG / 4];
    int wanted = config & MBIT_1000 ? 1000 : config & MBIT_100 ? 100 : 10;
    double clock = wanted == 1000 ? 125e6 : wanted == 100 ? 25e6 : 2.5e6;
    bool fits = std::abs(transmit_hz_ / clock - 1) < 1e-3 && phy_.speed() == wanted;
    return fits && phy_.delays() && config & FULL_DUPLEX ? wanted : 0;
}

uint32_t Gem::read(uint32_t offset) {
    uint32_t value = registers_[offset / 4 % (REGISTERS / 4)];
    switch (offset) {
        case STATUS:
            return mdio_wait_ ? 0 : MDIO_IDLE;
        case ID:
            return 0x0002'0118;  // revision of the Zynq's
        case RX_RING:
            return rx_place_;
        case TX_RING:
            return tx_place_;
    }
    if (offset >= 0x100 && offset < 0x1B4)
        registers_[offset / 4] = 0;  // counts end as they are read
    return value;
}

void Gem::write(uint32_t offset, uint32_t value) {
    uint32_t &stored = registers_[offset / 4 % (REGISTERS / 4)];
    switch (offset) {
        case CONTROL:
            if (!(value & RX_ON)) {
                deaf = false;
                incoming_.clear();
            }
            if (!(value & TX_ON)) {
                // the transmitter starts again at the beginning of its ring
                tx_place_ = registers_[TX_RING / 4];
                sending_ = on_line_ = false;
            } else if (value & START) {
                sending_ = true;
            }
            stored = value & ~(START | HALT);
            break;
        case RX_RING:
            stored = rx_place_ = value & ~3u;
            break;
        case TX_RING:
            stored = tx_place_ = value & ~3u;
            break;
        case TX_STATUS:
        case RX_STATUS:
            stored &= ~value;
            break;
        case MDIO:
            manage(value);
            break;
        default:
            if (offset < 0x100) stored = value;
    }
}

void Gem::manage(uint32_t word) {
    if (!(registers_[CONTROL / 4] & MDIO_ON) || mdio_wait_) return;
    double mdc = management_hz_ / MDC_DIVISORS[registers_[CONFIG / 4] >> 18 & 7];
    int phy = word >> 23 & 31, reg = word >> 18 & 31;
    bool sound = mdc <= MOST_MDC_HZ && word >> 30 == 1 && (word >> 16 & 3) == 2;
    uint16_t value = word;
    if (word >> 28 & 2)
        value = sound ? phy_.read(phy, reg) : 0xFFFF;
    else if (sound && word >> 28 & 1)
        phy_.write(phy, reg, value);
    registers_[MDIO / 4] = (word & 0xFFFF0000) | value;
    mdio_wait_ = std::max(1, static_cast<int>(64 * FABRIC_HZ / std::max(mdc, 1.0)));
}

void Gem::tick(double transmit_hz, double management_hz) {
    transmit_hz_ = transmit_hz;
    management_hz_ = management_hz;
    if (mdio_wait_) mdio_wait_--;
    int agreed = speed(), cycles_per_byte = agreed ? 1000 / agreed : 1;
    receive(cycles_per_byte);
    transmit(cycles_per_byte);
}

void Gem::receive(int cycles_per_byte) {
    if (rx_wait_ > 0 && --rx_wait_) return;
    rx_wait_ = cycles_per_byte;
    uint8_t byte;
    if (!network_.next(byte)) return;
    incoming_.push_back(byte);
    if (!network_.last()) return;
    Bytes frame = std::move(incoming_);
    incoming_.clear();
    bool takes = registers_[CONTROL / 4] & RX_ON && !deaf && speed();
    if (takes && !network_.damaged() && is_for_us(frame)) deliver(frame);
}

bool Gem::is_for_us(const Bytes &frame) {
    uint32_t config = registers_[CONFIG / 4];
    size_t most = config & FRAMES_1536 ? 1532 : 1514;
    if (frame.size() < LEAST || frame.size() > most) return false;
    if (config & COPY_ALL) return true;
    if (std::all_of(frame.begin(), frame.begin() + 6, [](uint8_t b) { return b == 0xFF; }))
        return !(config & NO_BROADCAST);
    uint32_t low, high = frame[4] | frame[5] << 8;
    memcpy(&low, frame.data(), 4);
    return low == registers_[ADDRESS_LOW / 4] && high == (registers_[ADDRESS_HIGH / 4] & 0xFFFF);
}

void Gem::deliver(const Bytes &frame) {
    size_t buffer = (registers_[DMA / 4] >> 16 & 0xFF) * 64;
    size_t length = frame.size() + (registers_[CONFIG / 4] & STRIP_CRC ? 0 : 4);
    registers_[RX_FRAMES / 4]++;
    if (!buffer) return;
    for (size_t done = 0; done < length; done += buffer) {
        uint32_t *descriptor = word(rx_place_);
        if (descriptor[0] & USED) {
            registers_[RX_STATUS / 4] |= NO_BUFFER;
            registers_[RX_RESOURCE / 4]++;
            return;
        }
        uint32_t address = descriptor[0] & ~3u;
        size_t here = std::min(buffer, length - done);
        for (size_t i = 0; i < here && done + i < frame.size(); i++)
            reinterpret_cast<uint8_t *>(word(address + i))[(address + i) % 4] = frame[done + i];
        bool last = done + here == length;
        descriptor[1] = (last ? length | LAST : 0) | (done ? 0 : FIRST);
        rx_place_ = descriptor[0] & WRAP ? registers_[RX_RING / 4] : rx_place_ + 8;
        descriptor[0] |= USED;
    }
    registers_[RX_STATUS / 4] |= FRAME_CAME;
}

// Gathers the next frame of the ring; false: there is none.
bool Gem::next_to_send() {
    outgoing_.clear();
    sent_place_ = tx_place_;
    for (;;) {
        const uint32_t *descriptor = word(tx_place_);
        uint32_t told = descriptor[1];
        if (told & SENT) {
            registers_[TX_STATUS / 4] |= USED_READ;
            return false;
        }
        for (uint32_t i = 0; i < (told & 0x3FFF); i++) {
            uint32_t address = descriptor[0] + i;
            outgoing_.push_back(reinterpret_cast<uint8_t *>(word(address))[address % 4]);
        }
        tx_place_ = told & TX_WRAP ? registers_[TX_RING / 4] : tx_place_ + 8;
        if (told & LAST) return true;
    }
}

void Gem::transmit(int cycles_per_byte) {
    if (tx_wait_ > 0 && --tx_wait_) return;
    if (on_line_) {
        on_line_ = false;
        registers_[TX_STATUS / 4] |= DONE;
        registers_[TX_FRAMES / 4]++;
        if (speed())
            for (size_t i = 0; i < outgoing_.size(); i++)
                network_.from_soc(outgoing_[i], i + 1 == outgoing_.size());
        word(sent_place_)[1] |= SENT;
    }
    // without a link there is no clock to send with
    if (!sending_ || !(registers_[CONTROL / 4] & TX_ON) || !phy_.speed()) return;
    sending_ = on_line_ = next_to_send();
    if (!sending_) return;
    if (outgoing_.size() < LEAST) outgoing_.resize(LEAST);
    tx_wait_ = (outgoing_.size() + OVERHEAD) * static_cast<int64_t>(cycles_per_byte);
}

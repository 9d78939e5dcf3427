#include "network.hpp"

#include <algorithm>
#include <arpa/inet.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/socket.h>

// Addresses as in soc.py; the host side is made up.
static const uint8_t HOST_MAC[6] = {2, 0, 0, 0, 0, 1}, SOC_MAC[6] = {0x10, 0xe2, 0xd5, 0, 0, 1};
static const uint8_t NET[3] = {192, 168, 1};
// last numbers of addresses: the SoC's; 127.0.0.k is FIRST_HOST + k
static constexpr int SOC_HOST = 50, FIRST_HOST = 99;
static constexpr int SOC_PORTS[2] = {1235, 1234};  // xtvu/datagram.py
static constexpr size_t HEADERS = 14 + 20 + 8, MIN_FRAME = 60, MAX_PAYLOAD = 1472, MAX_FRAME = 2000,
                        MAX_QUEUED = 64;

static uint16_t get16(const uint8_t *p) { return p[0] << 8 | p[1]; }
static void put16(std::vector<uint8_t> &v, uint16_t x) {
    v.push_back(x >> 8);
    v.push_back(x & 255);
}
static void put(std::vector<uint8_t> &v, const uint8_t *p, size_t n) {
    v.insert(v.end(), p, p + n);
}

static uint16_t checksum(const uint8_t *bytes, size_t length, uint32_t sum) {
    for (size_t i = 0; i < length; i++) sum += i & 1 ? bytes[i] : bytes[i] << 8;
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

Network::Network(int udp_port) {
    open(DATAGRAMS, udp_port);
    open(ETHERBONE, 0);
    open(RAW, 0);
}

void Network::open(Port which, int port) {
    int fd = sockets_[which] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (bind(fd, reinterpret_cast<sockaddr *>(&address), length) < 0) {
        perror("UDP port for the simulated Ethernet");
        exit(2);
    }
    getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length);
    ports_[which] = ntohs(address.sin_port);
}

void Network::wrap(int soc_port, const sockaddr_in &from, const uint8_t *payload, size_t length) {
    uint8_t host = ntohl(from.sin_addr.s_addr) & 255;
    const uint8_t source[4] = {NET[0], NET[1], NET[2], static_cast<uint8_t>(FIRST_HOST + host)};
    const uint8_t target[4] = {NET[0], NET[1], NET[2], SOC_HOST};
    Bytes f;
    put(f, SOC_MAC, 6);
    put(f, HOST_MAC, 6);
    put16(f, 0x0800);
    put16(f, 0x4500);
    put16(f, 28 + length);
    put16(f, 0);
    put16(f, 0x4000);
    put16(f, 64 << 8 | 17);
    put16(f, 0);
    put(f, source, 4);
    put(f, target, 4);
    uint16_t sum = checksum(&f[14], 20, 0);
    f[24] = sum >> 8;
    f[25] = sum;
    put16(f, ntohs(from.sin_port));
    put16(f, soc_port);
    put16(f, 8 + length);
    put16(f, 0);
    put(f, payload, length);
    sum = checksum(&f[26], f.size() - 26, 17 + 8 + length);
    if (!sum) sum = 0xffff;
    f[40] = sum >> 8;
    f[41] = sum;
    f.resize(std::max(f.size(), MIN_FRAME));
    frames_.push_back({std::move(f), false});
}

void Network::poll() {
    uint8_t buffer[2048];
    for (int which = 0; which < PORTS; which++)
        while (frames_.size() < MAX_QUEUED) {
            sockaddr_in from;
            socklen_t length = sizeof from;
            ssize_t n = recvfrom(sockets_[which], buffer, sizeof buffer, 0,
                                 reinterpret_cast<sockaddr *>(&from), &length);
            if (n < 0) break;
            moved_++;
            size_t size = n;
            if (which != RAW && size <= MAX_PAYLOAD) wrap(SOC_PORTS[which], from, buffer, size);
            if (which == RAW) {
                raw_client_ = from;
                if (size > 1 && size <= MAX_FRAME)
                    frames_.push_back({Bytes(buffer + 1, buffer + size), buffer[0] != 0});
            }
        }
}

bool Network::next(uint8_t &byte) {
    last_ = damaged_ = false;
    if (pause_ > 0) {
        pause_--;
        return false;
    }
    if (frames_.empty()) return false;
    const Frame &frame = frames_.front();
    byte = frame.bytes[position_++];
    if (position_ == frame.bytes.size()) {
        last_ = true;
        damaged_ = frame.damaged;
        frames_.pop_front();
        position_ = 0;
        pause_ = PAUSE;
    }
    return true;
}

void Network::reset() {
    if (position_) frames_.pop_front();
    position_ = 0;
    incoming_.clear();
}

void Network::from_soc(uint8_t byte, bool last) {
    incoming_.push_back(byte);
    if (last) {
        moved_++;
        handle(incoming_);
        incoming_.clear();
    }
}

void Network::handle(const Bytes &f) {
    if (f.size() >= HEADERS && !memcmp(&f[0], HOST_MAC, 6) && get16(&f[12]) == 0x0800 &&
        f[23] == 17 && !memcmp(&f[30], NET, 3) && f[33] > FIRST_HOST) {
        size_t length = std::min<size_t>(get16(&f[38]) - 8, f.size() - HEADERS);
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(get16(&f[36]));
        to.sin_addr.s_addr = htonl(0x7f000000 | (f[33] - FIRST_HOST));
        bool sound = !checksum(&f[14], 20, 0);  // another host would not take it either
        for (int which = 0; sound && which < RAW; which++)
            if (get16(&f[34]) == SOC_PORTS[which])
                sendto(sockets_[which], &f[HEADERS], length, 0, reinterpret_cast<sockaddr *>(&to),
                       sizeof to);
    } else if (raw_client_.sin_port) {
        sendto(sockets_[RAW], f.data(), f.size(), 0, reinterpret_cast<sockaddr *>(&raw_client_),
               sizeof raw_client_);
    }
}

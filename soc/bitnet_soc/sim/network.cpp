#include "network.hpp"

#include <algorithm>
#include <arpa/inet.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/socket.h>

// Addresses as in soc.py; the host side is made up.
static const uint8_t HOST_MAC[6] = {2, 0, 0, 0, 0, 1}, SOC_MAC[6] = {0x10, 0xe2, 0xd5, 0, 0, 1};
static const uint8_t HOST_IP[4] = {192, 168, 1, 100}, SOC_IP[4] = {192, 168, 1, 50};
static constexpr int ETHERBONE_PORT = 1234;
static constexpr size_t HEADERS = 14 + 20 + 8, MIN_FRAME = 60, MAX_PAYLOAD = 1472, MAX_QUEUED = 64;

static uint16_t get16(const uint8_t *p) { return p[0] << 8 | p[1]; }
static void put16(std::vector<uint8_t> &v, uint16_t x) {
    v.push_back(x >> 8);
    v.push_back(x & 255);
}
static void put(std::vector<uint8_t> &v, const uint8_t *p, size_t n) { v.insert(v.end(), p, p + n); }

Network::Network(int udp_port) {
    socket_ = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(udp_port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (bind(socket_, reinterpret_cast<sockaddr *>(&address), length) < 0) {
        perror("UDP port for the simulated Ethernet");
        exit(2);
    }
    getsockname(socket_, reinterpret_cast<sockaddr *>(&address), &length);
    port_ = ntohs(address.sin_port);
}

void Network::wrap(const uint8_t *payload, size_t length) {
    Frame f;
    put(f, SOC_MAC, 6);
    put(f, HOST_MAC, 6);
    put16(f, 0x0800);
    size_t ip = f.size();
    put16(f, 0x4500);
    put16(f, 28 + length);
    put16(f, 0);
    put16(f, 0x4000);
    put16(f, 64 << 8 | 17);
    put16(f, 0);
    put(f, HOST_IP, 4);
    put(f, SOC_IP, 4);
    uint32_t sum = 0;
    for (size_t i = 0; i < 20; i += 2) sum += get16(&f[ip + i]);
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    f[ip + 10] = ~sum >> 8;
    f[ip + 11] = ~sum;
    put16(f, ETHERBONE_PORT);
    put16(f, ETHERBONE_PORT);
    put16(f, 8 + length);
    put16(f, 0);
    put(f, payload, length);
    f.resize(std::max(f.size(), MIN_FRAME));
    frames_.push_back(std::move(f));
}

void Network::poll() {
    uint8_t buffer[2048];
    while (frames_.size() < MAX_QUEUED) {
        sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t n = recvfrom(socket_, buffer, sizeof buffer, 0, reinterpret_cast<sockaddr *>(&from), &length);
        if (n < 0) return;
        client_ = from;
        if (static_cast<size_t>(n) <= MAX_PAYLOAD) wrap(buffer, n);
    }
}

void Network::to_soc_next() {
    if (++position_ == frames_.front().size()) {
        frames_.pop_front();
        position_ = 0;
    }
}

void Network::reset() {
    if (position_) frames_.pop_front();
    position_ = 0;
    incoming_.clear();
}

void Network::from_soc(uint8_t byte, bool last) {
    incoming_.push_back(byte);
    if (last) {
        handle(incoming_);
        incoming_.clear();
    }
}

void Network::handle(const Frame &f) {
    if (f.size() < MIN_FRAME - 18) return;
    uint16_t type = get16(&f[12]);
    if (type == 0x0806 && get16(&f[20]) == 1 && !memcmp(&f[38], HOST_IP, 4)) {
        Frame reply;
        put(reply, &f[6], 6);
        put(reply, HOST_MAC, 6);
        put16(reply, 0x0806);
        put(reply, &f[14], 6);  // Ethernet, IPv4, address lengths
        put16(reply, 2);
        put(reply, HOST_MAC, 6);
        put(reply, HOST_IP, 4);
        put(reply, &f[22], 10);
        reply.resize(MIN_FRAME);
        frames_.push_back(std::move(reply));
    } else if (type == 0x0800 && f[23] == 17 && f.size() >= HEADERS && client_.sin_port) {
        size_t length = std::min<size_t>(get16(&f[38]) - 8, f.size() - HEADERS);
        sendto(socket_, &f[HEADERS], length, 0, reinterpret_cast<sockaddr *>(&client_), sizeof client_);
    }
}

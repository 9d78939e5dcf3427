// The board's Ethernet as a UDP port on localhost, without privileges.
//
// A datagram that arrives becomes a frame to the SoC's Etherbone port; a UDP frame from the SoC goes back to whoever sent
// last. ARP requests are answered here, so the SoC sees an ordinary neighbour.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <netinet/in.h>
#include <vector>

class Network {
  public:
    explicit Network(int udp_port);  // 0: any free port

    void poll();
    void from_soc(uint8_t byte, bool last);
    bool to_soc_pending() const { return !frames_.empty(); }
    uint8_t to_soc_byte() const { return frames_.front()[position_]; }
    bool to_soc_last() const { return position_ + 1 == frames_.front().size(); }
    void to_soc_next();
    void reset();  // the SoC was reset: frames that are half through are lost

    int port() const { return port_; }

  private:
    using Frame = std::vector<uint8_t>;
    void handle(const Frame &frame);
    void wrap(const uint8_t *payload, size_t length);

    int socket_ = -1, port_ = 0;
    sockaddr_in client_{};
    std::deque<Frame> frames_;
    size_t position_ = 0;
    Frame incoming_;
};

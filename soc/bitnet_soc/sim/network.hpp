// The board's Ethernet as UDP ports on localhost, without privileges.
//
// A datagram that arrives becomes a frame to the SoC's UDP port of that name, and a UDP frame from
// the SoC goes back to where it is addressed to: the host at 127.0.0.k is 192.168.1.(99 + k) to the
// SoC, port for port, so there can be several. What arrives at the port for raw frames is sent as
// it is, but for a first byte that says whether the frame is damaged; frames from the SoC that go
// to nobody known are sent to whoever used that port last. As on a wire, a byte moves each cycle
// whether the SoC likes it or not, and between frames there is time for preamble, checksum and gap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <netinet/in.h>
#include <vector>

class Network {
  public:
    enum Port { DATAGRAMS, ETHERBONE, RAW, PORTS };

    explicit Network(int udp_port);  // of datagrams; 0: any free port

    void poll();
    void from_soc(uint8_t byte, bool last);
    bool next(uint8_t &byte);  // to the SoC, in this cycle; false: silence
    bool last() const { return last_; }
    bool damaged() const { return damaged_; }
    void reset();  // the SoC was reset: frames that are half through are lost

    int port(Port which) const { return ports_[which]; }
    uint64_t moved() const { return moved_; }  // frames, both ways

  private:
    using Bytes = std::vector<uint8_t>;
    struct Frame {
        Bytes bytes;
        bool damaged;
    };
    void open(Port which, int port);
    void handle(const Bytes &frame);
    void wrap(int soc_port, const sockaddr_in &from, const uint8_t *payload, size_t length);

    static constexpr int PAUSE = 24;  // cycles: preamble 8, checksum 4, gap 12
    int sockets_[PORTS], ports_[PORTS];
    sockaddr_in raw_client_{};
    std::deque<Frame> frames_;
    uint64_t moved_ = 0;
    size_t position_ = 0;
    int pause_ = 0;
    bool last_ = false, damaged_ = false;
    Bytes incoming_;
};

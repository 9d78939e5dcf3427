// The board's UART as a pseudo-terminal and as a TCP port on localhost; both see the same bytes. At
// the pseudo-terminal they are garbled if its rate is not the board's; a TCP port has none.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

class Serial {
  public:
    explicit Serial(int tcp_port);  // 0: any free port

    void
    poll();  // moves bytes between the outside and the queues; call it every thousand cycles or so
    void from_soc(uint8_t byte);
    // of the board's rate: 2^32 is one bit per cycle
    void set_tuning_word(uint32_t word) { tuning_word_ = word; }
    bool to_soc_pending() const { return !to_soc_.empty(); }
    uint8_t to_soc_front() const { return to_soc_.front(); }
    void to_soc_pop() { to_soc_.pop_front(); }

    uint64_t moved() const { return moved_; }  // bytes, both ways
    int tcp_port() const { return tcp_port_; }
    const std::string &pty() const { return pty_name_; }

  private:
    void send(int fd, const std::string &bytes);
    void receive(int fd);
    std::string garbled(const std::string &bytes) const;

    uint32_t tuning_word_ = 0;
    uint64_t moved_ = 0;
    int pty_ = -1, listener_ = -1, client_ = -1, tcp_port_ = 0;
    std::string pty_name_, outgoing_, backlog_;  // ... said before the first client came
    std::deque<uint8_t> to_soc_;
};

// The board's UART as a pseudo-terminal and as a TCP port on localhost; both see the same bytes.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

class Serial {
  public:
    explicit Serial(int tcp_port);  // 0: any free port

    void poll();  // moves bytes between the outside and the queues; call it every thousand cycles or so
    void from_soc(uint8_t byte);
    bool to_soc_pending() const { return !to_soc_.empty(); }
    uint8_t to_soc_front() const { return to_soc_.front(); }
    void to_soc_pop() { to_soc_.pop_front(); }

    int tcp_port() const { return tcp_port_; }
    const std::string &pty() const { return pty_name_; }

  private:
    void send(int fd, const std::string &bytes);
    void receive(int fd);

    int pty_ = -1, listener_ = -1, client_ = -1, tcp_port_ = 0;
    std::string pty_name_, outgoing_, backlog_;  // the backlog is what was said before the first client came
    std::deque<uint8_t> to_soc_;
};

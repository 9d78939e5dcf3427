#include "serial.hpp"

#include <arpa/inet.h>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pty.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

static constexpr size_t BACKLOG_BYTES = 65536, QUEUE_BYTES = 1 << 20;

Serial::Serial(int tcp_port) {
    int slave;
    char name[128];
    if (openpty(&pty_, &slave, name, nullptr, nullptr) < 0) {
        perror("pty for the simulated UART");
        exit(2);
    }
    termios raw;
    tcgetattr(slave, &raw);
    cfmakeraw(&raw);
    tcsetattr(slave, TCSANOW, &raw);
    fcntl(pty_, F_SETFL, O_NONBLOCK);  // the slave stays open, so the pty outlives its readers
    pty_name_ = name;

    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int yes = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(tcp_port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (bind(listener_, reinterpret_cast<sockaddr *>(&address), length) < 0 || listen(listener_, 1) < 0) {
        perror("TCP port for the simulated UART");
        exit(2);
    }
    getsockname(listener_, reinterpret_cast<sockaddr *>(&address), &length);
    tcp_port_ = ntohs(address.sin_port);
}

void Serial::from_soc(uint8_t byte) {
    outgoing_.push_back(static_cast<char>(byte));
    if (outgoing_.size() >= 4096) poll();
}

void Serial::send(int fd, const std::string &bytes) {
    // What nobody reads is lost, as on a real line.
    for (size_t sent = 0; sent < bytes.size();) {
        ssize_t n = write(fd, bytes.data() + sent, bytes.size() - sent);
        if (n <= 0) {
            if (fd == client_ && n < 0 && errno == EAGAIN) {
                usleep(100);
                continue;
            }
            return;
        }
        sent += n;
    }
}

void Serial::receive(int fd) {
    uint8_t buffer[4096];
    while (to_soc_.size() < QUEUE_BYTES) {
        ssize_t n = read(fd, buffer, sizeof buffer);
        if (n == 0 && fd == client_) {
            close(client_);
            client_ = -1;
        }
        if (n <= 0) return;
        to_soc_.insert(to_soc_.end(), buffer, buffer + n);
    }
}

void Serial::poll() {
    if (client_ < 0) {
        client_ = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK);
        if (client_ >= 0) {
            int yes = 1;
            setsockopt(client_, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
            send(client_, backlog_);
            backlog_.clear();
        }
    }
    if (!outgoing_.empty()) {
        if (client_ >= 0)
            send(client_, outgoing_);
        else if (backlog_.size() < BACKLOG_BYTES)
            backlog_ += outgoing_;
        send(pty_, outgoing_);
        outgoing_.clear();
    }
    if (client_ >= 0) receive(client_);
    receive(pty_);
}

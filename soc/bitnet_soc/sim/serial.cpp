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

static constexpr double CLOCK_HZ = 125e6;
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
    cfsetspeed(&raw, B115200);
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
    if (bind(listener_, reinterpret_cast<sockaddr *>(&address), length) < 0 ||
        listen(listener_, 1) < 0) {
        perror("TCP port for the simulated UART");
        exit(2);
    }
    getsockname(listener_, reinterpret_cast<sockaddr *>(&address), &length);
    tcp_port_ = ntohs(address.sin_port);
}

// Baud that the terminal at the other end of the pty is set to, 0 if that is none of these.
static double terminal_rate(int pty) {
    static const struct {
        speed_t code;
        double rate;
    } rates[] = {{B9600, 9600},       {B115200, 115200},   {B460800, 460800},
                 {B921600, 921600},   {B1000000, 1000000}, {B2000000, 2000000},
                 {B3000000, 3000000}, {B4000000, 4000000}};
    termios settings;
    if (tcgetattr(pty, &settings) < 0) return 0;
    for (const auto &entry : rates)
        if (entry.code == cfgetospeed(&settings)) return entry.rate;
    return 0;
}

// What bytes become between ends of different speed.
std::string Serial::garbled(const std::string &bytes) const {
    double ratio = terminal_rate(pty_) * 4294967296.0 / (tuning_word_ * CLOCK_HZ);
    std::string out = bytes;
    if (ratio < 0.97 || ratio > 1.03)
        for (size_t i = 0; i < out.size(); i++) out[i] ^= 0x55 + 7 * i;
    return out;
}

void Serial::from_soc(uint8_t byte) {
    moved_++;
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
        moved_ += n;
        std::string bytes(reinterpret_cast<char *>(buffer), n);
        if (fd == pty_) bytes = garbled(bytes);
        to_soc_.insert(to_soc_.end(), bytes.begin(), bytes.end());
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
        send(pty_, garbled(outgoing_));
        outgoing_.clear();
    }
    if (client_ >= 0) receive(client_);
    receive(pty_);
}

// A board that only takes data, as fast as this PC can: toolchain/xtvu/datagram.py's rules for
// CLAIM, RELEASE, READ and DATA, written anew from their text. Every answer leaves a fixed time
// after its question came, as on a network with that round trip. usage: responder DELAY_US BYTES
// FILE    prints its port; writes its memory to FILE when standard input ends

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <vector>
#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace {

constexpr uint32_t kMagic = 0xB17E11A9;
constexpr size_t kHead = 20, kRecent = 16, kState = 8;
enum Operation { kClaim = 1, kRelease = 2, kRead = 3, kData = 5 };

struct Answer {
    int64_t due;
    sockaddr_in to;
    std::vector<uint8_t> bytes;
};

uint32_t table[4][256];

void make_table() {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
        table[0][i] = crc;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int t = 1; t < 4; t++)
            table[t][i] = table[t - 1][i] >> 8 ^ table[0][table[t - 1][i] & 255];
}

uint32_t crc32(const uint8_t *bytes, size_t count) {  // of whole words
    uint32_t crc = ~0u;
    for (size_t i = 0; i < count; i += 4) {
        uint32_t word;
        memcpy(&word, bytes + i, 4);
        crc ^= word;
        crc = table[3][crc & 255] ^ table[2][crc >> 8 & 255] ^ table[1][crc >> 16 & 255] ^
              table[0][crc >> 24];
    }
    return ~crc;
}

int64_t now() {
    using namespace std::chrono;
    return duration_cast<microseconds>(steady_clock::now().time_since_epoch()).count();
}

struct Board {
    std::vector<uint8_t> ddr;
    uint32_t recent[kRecent] = {}, claims = 0;

    // The answer to a sound datagram; empty if none is wanted.
    std::vector<uint8_t> serve(const uint8_t *raw, size_t size) {
        uint32_t head[5], crc;
        if (size < kHead + 4 || size % 4) return {};
        memcpy(head, raw, kHead);
        memcpy(&crc, raw + size - 4, 4);
        const uint32_t count = head[3] >> 16;
        if (head[0] != kMagic || size != kHead + 4 + 4 * count || crc32(raw, size - 4) != crc)
            return {};
        std::vector<uint32_t> data;
        uint32_t status = 0;
        switch (head[3] & 255) {
            case kClaim:
                claims++;
                data = {1, 0, 0, 0, 0, claims, 0, 0};
                break;
            case kRelease:
                break;
            case kRead:
                data.resize(count);
                break;
            case kData:
                if (head[4] % 8 || head[4] > ddr.size() || 4 * count > ddr.size() - head[4]) {
                    status = 4;
                    break;
                }
                memcpy(&ddr[head[4]], raw + kHead, 4 * count);
                memmove(recent + 1, recent, sizeof recent - sizeof *recent);
                recent[0] = head[2];
                if (!(head[3] & 0x200)) return {};
                data.assign(recent, recent + kRecent);
                break;
            default:
                status = 6;
        }
        head[3] = (head[3] & 255) | status << 8 | uint32_t(data.size()) << 16;
        std::vector<uint8_t> answer(kHead + 4 * data.size() + 4);
        memcpy(&answer[0], head, kHead);
        if (!data.empty()) memcpy(&answer[kHead], data.data(), 4 * data.size());
        crc = crc32(answer.data(), answer.size() - 4);
        memcpy(&answer[answer.size() - 4], &crc, 4);
        return answer;
    }
};

}  // namespace

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    const int64_t delay = atoll(argv[1]);
    Board board;
    board.ddr.resize(strtoull(argv[2], nullptr, 10));
    make_table();
    const int line = socket(AF_INET, SOCK_DGRAM, 0);
    int room = 1 << 22;
    setsockopt(line, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (bind(line, reinterpret_cast<sockaddr *>(&address), length)) return 1;
    getsockname(line, reinterpret_cast<sockaddr *>(&address), &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    std::deque<Answer> answers;
    uint8_t raw[2048];
    for (bool open = true; open;) {
        const int64_t wait =
            answers.empty() ? 100'000 : std::max<int64_t>(0, answers.front().due - now());
        pollfd polled[2] = {{line, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
        const timespec left{wait / 1'000'000, wait % 1'000'000 * 1000};
        ppoll(polled, 2, &left, nullptr);
        open = !(polled[1].revents & (POLLIN | POLLHUP));
        sockaddr_in from{};
        length = sizeof from;
        for (ssize_t size; (size = recvfrom(line, raw, sizeof raw, MSG_DONTWAIT,
                                            reinterpret_cast<sockaddr *>(&from), &length)) >= 0;) {
            std::vector<uint8_t> bytes = board.serve(raw, size_t(size));
            if (!bytes.empty()) answers.push_back({now() + delay, from, std::move(bytes)});
            if (!answers.empty() && answers.front().due <= now()) break;
        }
        while (!answers.empty() && answers.front().due <= now()) {
            const Answer &next = answers.front();
            sendto(line, next.bytes.data(), next.bytes.size(), 0,
                   reinterpret_cast<const sockaddr *>(&next.to), sizeof next.to);
            answers.pop_front();
        }
    }
    FILE *file = fopen(argv[3], "wb");
    const bool whole =
        file && fwrite(board.ddr.data(), 1, board.ddr.size(), file) == board.ddr.size();
    return file && !fclose(file) && whole ? 0 : 1;
}

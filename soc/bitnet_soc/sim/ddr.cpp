#include "ddr.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static constexpr size_t RUBBISH_BYTES = 16 << 20;  // that the hostile memory starts with

static uint32_t next_random(uint32_t &state) {  // xorshift32
    state ^= state << 13;
    state ^= state >> 17;
    return state ^= state << 5;
}

Ddr::Ddr(uint64_t size, const std::string &preload, const DdrPreset &preset, double fabric_hz,
         uint32_t seed)
    : preset_(preset), size_(size), clocks_per_cycle_(DRAM_HZ / fabric_hz),
      next_refresh_(preset.refresh_every_ns * CLOCKS_PER_NS),
      read_latency_(std::lround(preset.read_ns * fabric_hz / 1e9 + preset.read_cycles)),
      write_latency_(std::lround(preset.write_ns * fabric_hz / 1e9 + preset.write_cycles)),
      random_(seed * 2654435761u | 1) {
    void *base = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        perror("simulated DDR");
        exit(2);
    }
    memory_ = static_cast<uint8_t *>(base);
    if (hostile())
        for (size_t i = 0; i + 4 <= std::min<uint64_t>(size, RUBBISH_BYTES); i += 4) {
            uint32_t rubbish = next_random(random_);
            memcpy(memory_ + i, &rubbish, 4);
        }
    if (!preload.empty()) {
        int fd = open(preload.c_str(), O_RDONLY);
        struct stat info;
        if (fd < 0 || fstat(fd, &info) < 0) {
            fprintf(stderr, "cannot read the DDR contents in %s\n", preload.c_str());
            exit(2);
        }
        size_t length = std::min<uint64_t>(info.st_size, size);
        if (length && mmap(base, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) ==
                          MAP_FAILED) {
            perror("simulated DDR contents");
            exit(2);
        }
        close(fd);
    }
    std::fill(open_row_, open_row_ + BANKS, -1);
}

void Ddr::violation(const char *port, const char *rule, uint64_t address) {
    fprintf(stderr, "AXI3 violation on %s at cycle %llu, address 0x%llx: %s\n", port,
            static_cast<unsigned long long>(now_), static_cast<unsigned long long>(address), rule);
    exit(3);
}

void Ddr::check_address(const char *port, uint64_t address, int beats) {
    uint64_t end = address + 8ull * beats;
    if (address % 8) violation(port, "address is not aligned to the 8-byte beat", address);
    if ((address >> 12) != ((end - 1) >> 12))
        violation(port, "burst crosses a 4 KB boundary", address);
    if (address < FIRST_HP_ADDRESS || end > size_)
        violation(port, "address is outside of what HP ports reach", address);
}

double Ddr::cost(uint64_t address, int beats, bool write) {
    double clocks = std::max(4, beats) + preset_.burst_overhead;  // BL8 moves 32 bytes at least
    int bank = address >> PAGE_BITS & (BANKS - 1);
    int64_t row = address >> PAGE_BITS;
    if (open_row_[bank] != row) {
        open_row_[bank] = row;
        clocks += preset_.row_miss;
    }
    if (write != last_was_write_) {
        last_was_write_ = write;
        clocks += preset_.turnaround;
    }
    return clocks;
}

bool Ddr::waits(int stream) const {
    if (stream >= PORTS) {
        const WritePort &port = writes_[stream - PORTS];
        return port.pins.awvalid && !port.pending.empty();
    }
    const ReadPort &port = reads_[stream];
    return port.scheduled < port.bursts.size() && pair_free_[stream / 2] <= dram_now_;
}

// The pairs take turns, and in a pair its streams. -1: nobody waits.
int Ddr::choose() {
    static constexpr int STREAMS[PAIRS][4] = {{0, 1, PORTS, PORTS + 1}, {2, 3, -1, -1}};
    for (int i = 0; i < PAIRS; i++) {
        int pair = (turn_ + i) % PAIRS;
        for (int j = 0; j < 4; j++) {
            int place = (stream_turn_[pair] + j) % 4, stream = STREAMS[pair][place];
            if (stream < 0 || !waits(stream)) continue;
            turn_ = pair + 1;
            stream_turn_[pair] = place + 1;
            return stream;
        }
    }
    return -1;
}

// Serves requests until the data bus is busy beyond the current clock.
void Ddr::schedule() {
    dram_now_ += clocks_per_cycle_;
    if (measuring) peak_ += clocks_per_cycle_;
    while (bus_free_ < dram_now_) {
        if (bus_free_ >= next_refresh_) {
            bus_free_ += preset_.refresh_ns * CLOCKS_PER_NS;
            next_refresh_ += preset_.refresh_every_ns * CLOCKS_PER_NS;
            std::fill(open_row_, open_row_ + BANKS, -1);
            continue;
        }
        int stream = choose();
        if (stream < 0) {
            bus_free_ = dram_now_;
            break;
        }
        if (stream >= PORTS) {
            WritePort &port = writes_[stream - PORTS];
            Write write = port.pending.front();
            port.pending.pop_front();
            if (!hostile()) store(stream - PORTS, write);
            bus_free_ += cost(write.address, 1, true);
            write.answer_at = now_ + write_latency_ + jitter();
            port.responses.push_back(write);
            used_ += 1;
        } else {
            ReadPort &port = reads_[stream];
            Burst &burst = port.bursts[port.scheduled++];
            bus_free_ += cost(burst.address, burst.length, false);
            double &pair = pair_free_[stream / 2];
            pair =
                std::max(pair, dram_now_ - clocks_per_cycle_) + burst.length / preset_.pair_share;
            burst.ready_at = now_ + read_latency_ + jitter();
            used_ += burst.length;
        }
    }
}

void Ddr::store(int port, const Write &write) {
    int stream = PORTS + port;
    uint64_t address = faults.address(stream, write.address);
    uint64_t data = faults.data(stream, write.data);
    for (int i = 0; i < (faults.narrow[stream] ? 4 : 8); i++)
        if (write.strobe >> i & 1) memory_[address + i] = data >> (8 * i);
}

bool Ddr::moves() { return !hostile() || (next_random(random_) & 15) >= preset_.gaps; }

int Ddr::jitter() {
    int least = preset_.delay_least, most = preset_.delay_most;
    return most ? least + static_cast<int>(next_random(random_) % (most - least + 1)) : 0;
}

// It has a port of the controller to itself: its turn comes after the burst that is under way.
int Ddr::access(uint64_t address, int beats, bool write) {
    double begin = std::max(bus_free_, dram_now_);
    bus_free_ = begin + cost(address, beats, write);
    return std::lround((begin - dram_now_) / clocks_per_cycle_) +
           (write ? write_latency_ : read_latency_);
}

uint64_t Ddr::owed() const {
    uint64_t sum = 0;
    for (const auto &port : reads_) sum += port.bursts.size();
    for (const auto &port : writes_)
        sum +=
            port.addresses.size() + port.data.size() + port.pending.size() + port.responses.size();
    return sum;
}

void Ddr::sample() {
    static const char *names[PORTS] = {"HP0 read", "HP1 read", "HP2 read", "HP3 read"};
    for (int i = 0; i < PORTS; i++) {
        ReadPort &port = reads_[i];
        AxiReadPins &p = port.pins;
        if (port.held &&
            (!*p.arvalid || *p.araddr != port.held_address || *p.arlen != port.held_length))
            violation(names[i], "ARVALID fell or the address changed before ARREADY", *p.araddr);
        port.held = *p.arvalid && !*p.arready;
        port.held_address = *p.araddr;
        port.held_length = *p.arlen;
        port.shown = *p.rvalid && !*p.rready;
        if (*p.rvalid && *p.rready) {
            Burst &burst = port.bursts.front();
            if (++burst.beat == burst.length) {
                port.bursts.pop_front();
                port.scheduled--;
            }
        }
        if (*p.arvalid && *p.arready) {
            check_address(names[i], *p.araddr, *p.arlen + 1);
            port.bursts.push_back({*p.araddr, *p.arlen + 1});
            Burst &burst = port.bursts.back();
            for (int beat = 0; hostile() && beat < burst.length; beat++)
                burst.data[beat] = faults.read_beat(i, memory_, burst.address, beat);
        }
    }

    static const char *write_names[WRITE_PORTS] = {"HP0 write", "HP1 write"};
    for (int i = 0; i < WRITE_PORTS; i++)
        if (writes_[i].pins.awvalid) sample_write(i, write_names[i]);
    now_++;
    schedule();
}

void Ddr::sample_write(int index, const char *name) {
    WritePort &port = writes_[index];
    AxiWritePins &p = port.pins;
    if (port.aw_held && (!*p.awvalid || *p.awaddr != port.held_address))
        violation(name, "AWVALID fell or the address changed before AWREADY", *p.awaddr);
    if (port.w_held && (!*p.wvalid || *p.wdata != port.held_data || *p.wstrb != port.held_strobe))
        violation(name, "WVALID fell or the data changed before WREADY", *p.awaddr);
    port.aw_held = *p.awvalid && !*p.awready;
    port.w_held = *p.wvalid && !*p.wready;
    port.held_address = *p.awaddr;
    port.held_data = *p.wdata;
    port.held_strobe = *p.wstrb;
    if (*p.awvalid && *p.awready) {
        check_address(name, *p.awaddr, 1);
        port.addresses.push_back(*p.awaddr);
    }
    if (*p.wvalid && *p.wready) port.data.push_back({0, *p.wdata, *p.wstrb, 0});
    if (!port.addresses.empty() && !port.data.empty()) {
        Write write = port.data.front();
        write.address = port.addresses.front();
        port.addresses.pop_front();
        port.data.pop_front();
        port.pending.push_back(write);
    }
    port.shown = *p.bvalid && !*p.bready;
    if (*p.bvalid && *p.bready) {
        if (hostile()) store(index, port.responses.front());
        port.responses.pop_front();
    }
}

void Ddr::drive() {
    for (int i = 0; i < PORTS; i++) {
        ReadPort &port = reads_[i];
        AxiReadPins &p = port.pins;
        *p.arready = port.bursts.size() < commands(i) && !frozen && moves();
        *p.rvalid = port.shown;
        if (port.bursts.empty()) continue;
        Burst &burst = port.bursts.front();
        bool due = burst.ready_at >= 0 && static_cast<int64_t>(now_) >= burst.ready_at;
        if (port.shown || (due && !frozen && moves())) {
            *p.rvalid = 1;
            *p.rresp = failing >> i & 1 ? 2 : 0;
            *p.rlast = burst.beat == burst.length - 1;
            *p.rdata = hostile() ? burst.data[burst.beat]
                                 : faults.read_beat(i, memory_, burst.address, burst.beat);
        }
    }
    for (int i = 0; i < WRITE_PORTS; i++)
        if (writes_[i].pins.awvalid) drive_write(i);
}

void Ddr::drive_write(int index) {
    WritePort &port = writes_[index];
    AxiWritePins &p = port.pins;
    size_t most = commands(PORTS + index);
    size_t open = port.pending.size() + port.responses.size();
    *p.awready = open + port.addresses.size() < most && !frozen && moves();
    *p.wready = open + port.data.size() < most && !frozen && moves();
    bool due =
        !port.responses.empty() && static_cast<int64_t>(now_) >= port.responses.front().answer_at;
    *p.bvalid = port.shown || (due && !frozen && moves());
    *p.bresp = failing >> (PORTS + index) & 1 ? 2 : 0;
}

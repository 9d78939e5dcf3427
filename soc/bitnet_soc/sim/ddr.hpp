// Model of the board's DDR3 behind the hard memory controller and its AXI HP ports.
//
// The data bus moves 8 bytes per DRAM clock (32 bit, double data rate, 533 MHz). Bursts of all
// ports are served one after another; each pays its data time and what the preset charges for
// arbitration, row misses, refresh and read/write turnaround. Data comes back a fixed latency after
// its bus slot, at most one 64-bit beat per port and fabric clock. The controller has three ports
// that take turns: HP0 and HP1 share one, HP2 and HP3 the next, and the CPU's accesses come by the
// third. AXI3 rules are checked; breaking one ends the simulation.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <string>

#include "ddr_faults.hpp"
#include "ddr_preset.hpp"

struct AxiReadPins {
    uint32_t *araddr;
    uint8_t *arlen, *arvalid, *arready;
    uint64_t *rdata;
    uint8_t *rresp, *rlast, *rvalid, *rready;
};

struct AxiWritePins {
    uint32_t *awaddr;
    uint8_t *awvalid, *awready;
    uint64_t *wdata;
    uint8_t *wstrb, *wvalid, *wready, *bresp, *bvalid, *bready;
};

class Ddr {
  public:
    // that read; that write: of the vector unit, and of the network
    static constexpr int PORTS = 4, WRITE_PORTS = 2;
    // the ports do not reach the megabyte below
    static constexpr uint64_t FIRST_HP_ADDRESS = 0x100000;

    // Maps `size` bytes; `preload` (may be empty) fills them copy-on-write from a file. `seed` is
    // of what is random.
    Ddr(uint64_t size, const std::string &preload, const DdrPreset &preset, double fabric_hz,
        uint32_t seed = 1);

    void attach(int port, const AxiReadPins &pins) { reads_[port].pins = pins; }
    void attach_write(int port, const AxiWritePins &pins) { writes_[port].pins = pins; }

    void sample();  // before the rising edge: take handshakes
    void drive();   // after it: new inputs for the design

    // An access of the CPU's side; returns the fabric clocks until its first word is there, or
    // until it is written.
    int access(uint64_t address, int beats, bool write);
    uint32_t read_word(uint64_t address) { return faults.read_word(memory_, address); }
    void write_word(uint64_t address, uint32_t word, unsigned strobe) {
        faults.write_word(memory_, address, word, strobe);
    }

    uint8_t *memory() { return memory_; }
    uint64_t size() const { return size_; }

    // 64-bit beats that moved, and that the bus would have moved at its peak while `measuring`
    uint64_t used() const { return used_; }
    uint64_t peak() const { return static_cast<uint64_t>(peak_); }
    uint64_t owed() const;  // bursts that were begun and have not ended
    uint64_t cycles() const { return now_; }
    bool measuring = true;  // time counts for the peak
    // To test what the design does with it:
    // ports that answer with SLVERR: bits 0 to 3 HP reads, bits 4 and 5 writes
    unsigned failing = 0;
    bool frozen = false;  // no port takes or answers anything
    DdrFaults faults;

  private:
    struct Burst {
        uint64_t address;
        int length;
        int beat = 0;
        int64_t ready_at = -1;  // fabric clock of the first beat, -1 while not scheduled
        uint64_t data[16] = {};
    };
    struct ReadPort {
        AxiReadPins pins{};
        std::deque<Burst> bursts;
        size_t scheduled = 0;
        bool held = false, shown = false;  // an address not taken yet; a beat not taken yet
        uint32_t held_address = 0;
        uint8_t held_length = 0;
    };
    struct Write {
        uint64_t address, data;
        uint8_t strobe;
        int64_t answer_at;
    };
    struct WritePort {
        AxiWritePins pins{};
        std::deque<uint64_t> addresses;
        std::deque<Write> data, pending, responses;
        bool aw_held = false, w_held = false, shown = false;
        uint32_t held_address = 0;
        uint64_t held_data = 0;
        uint8_t held_strobe = 0;
    };

    [[noreturn]] void violation(const char *port, const char *rule, uint64_t address);
    void check_address(const char *port, uint64_t address, int beats);
    void schedule();
    double cost(uint64_t address, int beats, bool write);
    void store(int port, const Write &write);
    void sample_write(int port, const char *name);
    void drive_write(int port);
    bool moves();  // whether a channel that could move does
    int jitter();
    bool hostile() const { return preset_.gaps > 0; }
    bool waits(int stream) const;  // for the controller
    int choose();
    size_t commands(int stream) const {
        return std::min(static_cast<size_t>(preset_.commands), faults.commands[stream]);
    }

    static constexpr double DRAM_HZ = 533.33e6, CLOCKS_PER_NS = DRAM_HZ / 1e9;
    static constexpr int BANKS = 8, PAGE_BITS = 12;
    static constexpr int PAIRS = 2;  // ports of the controller that two HP ports share each

    const DdrPreset preset_;
    uint64_t size_;
    uint8_t *memory_;
    ReadPort reads_[PORTS];
    WritePort writes_[WRITE_PORTS];
    double clocks_per_cycle_, dram_now_ = 0, bus_free_ = 0, next_refresh_, peak_ = 0;
    int read_latency_, write_latency_;  // fabric clocks
    double pair_free_[PAIRS] = {0, 0};
    int64_t open_row_[BANKS];
    bool last_was_write_ = false;
    int turn_ = 0, stream_turn_[PAIRS] = {0, 0};
    uint32_t random_;
    uint64_t now_ = 0, used_ = 0;
};

// Model of the board's DDR3 behind the hard memory controller and its AXI HP ports.
//
// The data bus moves 8 bytes per DRAM clock (32 bit, double data rate, 533 MHz). Bursts of all
// ports are served one after another; each pays its data time and what the preset charges for
// arbitration, row misses, refresh and read/write turnaround. Data comes back a fixed latency after
// its bus slot, at most one 64-bit beat per port and fabric clock. AXI3 rules are checked; breaking
// one ends the simulation.
//
// The preset `hostile` is not about speed: every channel stutters at random, latencies differ from
// burst to burst, a read gives what memory held when its address was taken, a write shows when its
// response is taken, and memory starts full of rubbish. AXI allows all of it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <string>
#include <vector>

struct DdrPreset {
    const char *name;
    int read_latency;       // fabric clocks from a burst's bus slot to its first beat
    int write_latency;      // fabric clocks to the write response
    double burst_overhead;  // DRAM clocks per burst, whatever it holds
    double row_miss;        // DRAM clocks that opening another row leaves exposed
    double turnaround;      // DRAM clocks between a read and a write
    double pair_share;      // share of the bus that HP0+HP1, and HP2+HP3, can take
    int gaps;               // in 16 cycles, on average, in which a channel that could move does not
    int spread;             // fabric clocks by which latencies differ
};

// Sources: UG585 table of DDRC efficiency (92 % for random reads, 2,840 MB/s per DDRC port), and 82
// % as others measured; the overheads are fitted so that four ports streaming together reach those
// shares.
extern const DdrPreset DDR_PRESETS[3];
const DdrPreset *find_preset(const char *name);  // null if there is none

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

    // A CPU-side access; returns the fabric clocks it takes.
    int access(bool write);

    uint8_t *memory() { return memory_; }
    uint64_t size() const { return size_; }

    // Beats that could have moved: those that did, and those that fit into bus time without a
    // request.
    uint64_t granted() const {
        return used_ + static_cast<uint64_t>(lost_ * 16 / (16 + preset_.burst_overhead));
    }
    uint64_t used() const { return used_; }
    uint64_t owed() const;  // bursts that were begun and have not ended
    uint64_t cycles() const { return now_; }
    bool measuring = true;  // idle bus time counts as granted
    // To test what the design does with it:
    // ports that answer with SLVERR: bits 0 to 3 HP reads, bits 4 and 5 writes
    unsigned failing = 0;
    bool frozen = false;  // no port takes or answers anything

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
    void store(const Write &write);
    void sample_write(WritePort &port, const char *name);
    void drive_write(WritePort &port, bool fails);
    bool moves();  // whether a channel that could move does
    int jitter();
    bool hostile() const { return preset_.gaps > 0; }

    static constexpr size_t OUTSTANDING = 8;  // of an HP port
    static constexpr double DRAM_HZ = 533.33e6;
    // DRAM clocks: 7.8 us, 260 ns
    static constexpr double REFRESH_EVERY = 4160, REFRESH_TIME = 139;
    static constexpr int BANKS = 8, PAGE_BITS = 12;

    const DdrPreset preset_;
    uint64_t size_;
    uint8_t *memory_;
    ReadPort reads_[PORTS];
    WritePort writes_[WRITE_PORTS];
    double clocks_per_cycle_, dram_now_ = 0, bus_free_ = 0, next_refresh_ = REFRESH_EVERY,
                              lost_ = 0;
    double pair_free_[2] = {0, 0};
    int64_t open_row_[BANKS];
    bool last_was_write_ = false;
    int turn_ = 0;
    uint32_t random_;
    uint64_t now_ = 0, used_ = 0;
};

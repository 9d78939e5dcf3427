// A general-purpose AXI port of the processing system, as a slave. One transaction each way at a
// time. AXI3 rules are checked, and that registers are reached by single whole words; breaking one
// ends the simulation.
#pragma once

#include <cstdint>
#include <deque>

struct GpPins {
    uint32_t *araddr;
    uint8_t *arlen, *arvalid, *arready;
    uint32_t *rdata;
    uint8_t *rresp, *rlast, *rvalid, *rready;
    uint32_t *awaddr;
    uint8_t *awlen, *awvalid, *awready;
    uint32_t *wdata;
    uint8_t *wstrb, *wlast, *wvalid, *wready, *bresp, *bvalid, *bready;
};

// What lies behind the ports.
class GpTarget {
  public:
    enum Answer { OKAY, SLVERR = 2, DECERR = 3, NEVER };

    virtual ~GpTarget() = default;
    virtual Answer read(uint32_t address, uint32_t &word) = 0;
    virtual Answer write(uint32_t address, uint32_t word, unsigned strobe) = 0;
    virtual bool is_memory(uint32_t address) const = 0;  // else registers
    virtual int latency(uint32_t address, int words,
                        bool write) = 0;  // cycles from address to answer
};

class GpPort {
  public:
    GpPort(const char *name, GpTarget &target, const GpPins &pins, int gaps, uint32_t seed)
        : name_(name), target_(target), pins_(pins), gaps_(gaps), random_(seed * 2654435761u | 1) {}

    void sample();  // before the rising edge
    void drive();   // after it

    bool stalled = false;  // it takes and answers nothing

  private:
    struct Transaction {
        bool active = false;
        uint32_t address = 0;
        int beats = 0, done = 0, wait = 0;
        bool never = false, failed = false;
    };
    struct Held {
        bool held = false;
        uint64_t payload = 0;
    };

    void begin(Transaction &what, uint32_t address, int beats, bool write);
    void check_stable(Held &channel, bool valid, bool ready, uint64_t payload);
    [[noreturn]] void violation(const char *rule);
    bool moves();

    static constexpr int SPREAD = 60;  // cycles by which latencies differ where there are gaps

    const char *name_;
    GpTarget &target_;
    GpPins pins_;
    int gaps_;  // in 16 cycles, on average, in which a channel that could move does not
    uint32_t random_;
    Transaction read_, write_;
    Held ar_, aw_, w_;
    uint32_t word_ = 0;
    GpTarget::Answer answer_ = GpTarget::OKAY;
    bool fetched_ = false, shown_ = false;  // a word to give; it stands at the pins
};

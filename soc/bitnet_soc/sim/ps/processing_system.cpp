#include "processing_system.hpp"

#include "pins.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <generated/ps7.h>

static constexpr double FABRIC_HZ = 125e6, CRYSTAL_HZ = 33'333'333;
// cycles from an address to its answer: what projects report of registers, and of on-chip memory
// (UG585; SPA-UG for a clock of 100 MHz)
static constexpr int REGISTER_LATENCY = 40, ON_CHIP_LATENCY = 32;
static constexpr uint32_t UART1 = 0xE0001000, GPIO = 0xE000A000, GEM0 = 0xE000B000,
                          QSPI = 0xE000D000, SYSTEM = 0xF8000000, MEMORY_PORTS = 0xF8008000,
                          TIMER = 0xF8001000, SYSTEM_END = 0xF8010000, ON_CHIP = 0xFFFC0000,
                          ON_CHIP_BYTES = 0x40000, FIRST_DDR = 0x80000;
// system level control registers
enum : uint32_t {
    LOCK = 0xF8000004,
    UNLOCK = 0xF8000008,
    ARM_PLL = 0xF8000100,
    IO_PLL = 0xF8000108,
    PLL_STATUS = 0xF800010C,
    ARM_CLOCK = 0xF8000120,
    BUS_CLOCKS = 0xF800012C,
    GEM_CLOCK = 0xF8000140,
    UART_CLOCK = 0xF8000154,
    FABRIC_RESET = 0xF8000240,
    LEVEL_SHIFTERS = 0xF8000900,
    ON_CHIP_CONFIG = 0xF8000910,
    DCI_STATUS = 0xF8000B74,
    CONTROL_END = 0xF8001000,
    DDR_STATUS = 0xF8006054
};

// of a counter of the timer
enum : uint32_t { TIMER_CONTROL = 0x0C, TIMER_VALUE = 0x18 };

static constexpr int GAPS = 6;  // of the hostile preset, as at the memory ports

ProcessingSystem::ProcessingSystem(Vsoc *top, Ddr &ddr, int udp_port, int tcp_port, bool hostile,
                                   uint32_t seed)
    : serial(tcp_port), network(udp_port), top_(top), ddr_(ddr),
      on_chip_(new uint8_t[ON_CHIP_BYTES]), phy_(0, 0x001CC915, false), uart_(serial),
      gem_(network, phy_, on_chip_.get(), ON_CHIP, ON_CHIP_BYTES),
      gp0_("S_AXI_GP0", *this, GP_PINS(top, 0), hostile ? GAPS : 0, seed),
      gp1_("S_AXI_GP1", *this, GP_PINS(top, 1), hostile ? GAPS : 0, seed + 1) {
    for (uint32_t i = 0; i < ON_CHIP_BYTES; i++) on_chip_[i] = 0xA5 ^ i;  // nobody cleared it
    ddr.attach(0, HP_READ(top, 0));
    ddr.attach(1, HP_READ(top, 1));
    ddr.attach(2, HP_READ(top, 2));
    ddr.attach(3, HP_READ(top, 3));
    ddr.attach_write(0, HP_WRITE(top, 0));
    ddr.attach_write(1, HP_WRITE(top, 1));
    start();
}

// Does what the start of the board says.
void ProcessingSystem::start() {
    auto run = [this](const ps7_step *steps, size_t count) {
        for (size_t i = 0; i < count; i++) {
            const ps7_step &step = steps[i];
            uint32_t word = step.value;
            if (step.kind == PS7_DELAY) continue;
            if (step.kind == PS7_MASKWRITE || step.kind == PS7_POLL) {
                uint32_t before = 0;
                read(step.address, before);
                word = (before & ~step.mask) | (step.value & step.mask);
                if (step.kind == PS7_POLL && before & step.mask) continue;
            }
            if (step.kind == PS7_POLL || write(step.address, word, 15) != OKAY) {
                fprintf(stderr, "the start of the processing system fails at 0x%x\n", step.address);
                exit(3);
            }
        }
    };
#define RUN(phase) run(phase, sizeof phase / sizeof *phase)
    RUN(ps7_mio_init);
    RUN(ps7_pll_init);
    RUN(ps7_clock_init);
    RUN(ps7_ddr_init);
    RUN(ps7_peripherals_init);
    RUN(ps7_post_config);
}

bool ProcessingSystem::obey(const char *command) {
    unsigned address, word;
    if (!strncmp(command, "stall ", 6))
        gp1_.stalled = command[6] == '1';
    else if (!strncmp(command, "stall0 ", 7))
        gp0_.stalled = command[7] == '1';
    else if (!strncmp(command, "link ", 5))
        phy_.plug(atoi(command + 5));
    else if (!strncmp(command, "hold ", 5))
        system_[FABRIC_RESET] = command[5] == '1' ? 15 : 0;
    else if (sscanf(command, "register %x %x", &address, &word) == 2)
        system_write(address, word);
    else if (!strcmp(command, "deaf"))
        gem_.deaf = true;
    else
        return false;
    return true;
}

// Once, when the SoC drives its pins.
void ProcessingSystem::check_ties() {
    ties_checked_ = true;
    if (IS_MEMORY_TIED(top_, 0) && IS_MEMORY_TIED(top_, 1) && IS_MEMORY_TIED(top_, 2) &&
        IS_MEMORY_TIED(top_, 3) && IS_TIED(top_, saxigp0, 2) && IS_TIED(top_, saxigp1, 2) &&
        !top_->ps7_saxigp0arcache && !top_->ps7_saxigp0awcache)
        return;
    fprintf(stderr, "a port of the processing system is not tied to what it has to be\n");
    exit(3);
}

void ProcessingSystem::sample() {
    if (!ties_checked_) check_ties();
    if (top_->ps7_saxihp2awvalid || top_->ps7_saxihp3awvalid) {
        fprintf(stderr, "somebody writes to a memory port that nobody has\n");
        exit(3);
    }
    gp0_.sample();
    gp1_.sample();
}

void ProcessingSystem::drive(bool) {
    if (!clocks_known_) {
        uart_ratio_ = uart_hz() / FABRIC_HZ;
        gem_clock_ = gem_hz();
        bus_clock_ = peripheral_bus_hz();
        clocks_known_ = true;
    }
    top_->ps7_fclkresetn = ~system(FABRIC_RESET) & 15;
    phy_.tick();
    uart_.tick(uart_ratio_);
    gem_.tick(gem_clock_, bus_clock_);
    gp0_.drive();
    gp1_.drive();
}

void ProcessingSystem::poll() {
    serial.poll();
    network.poll();
}

void ProcessingSystem::reset() {}  // the SoC's button is not the processing system's

bool ProcessingSystem::is_memory(uint32_t address) const {
    return address >= ON_CHIP || address < ddr_.size();
}

int ProcessingSystem::latency(uint32_t address, int words, bool write) {
    if (address >= ON_CHIP) return ON_CHIP_LATENCY;
    return address < ddr_.size() ? ddr_.access(address, (words + 1) / 2, write) : REGISTER_LATENCY;
}

GpTarget::Answer ProcessingSystem::read(uint32_t address, uint32_t &word) {
    return reach(address, word, false, 15);
}

GpTarget::Answer ProcessingSystem::write(uint32_t address, uint32_t word, unsigned strobe) {
    return reach(address, word, true, strobe);
}

// Bits of BUS_CLOCKS: a block without its clock never answers.
bool ProcessingSystem::has_clock(uint32_t address) {
    static const struct {
        uint32_t base;
        int bit;
    } blocks[] = {{GEM0, 6}, {UART1, 21}, {GPIO, 22}, {QSPI, 23}};
    for (const auto &block : blocks)
        if (block.base == (address & ~0xFFFu)) return system(BUS_CLOCKS) >> block.bit & 1;
    return true;
}

GpTarget::Answer ProcessingSystem::reach(uint32_t address, uint32_t &word, bool write,
                                         unsigned strobe) {
    if (is_memory(address)) {
        bool on_chip = address >= ON_CHIP;
        // below, on-chip memory has been moved away
        if (on_chip ? (system(ON_CHIP_CONFIG) & 15) != 15 : address < FIRST_DDR) return DECERR;
        if (!on_chip) {
            write ? ddr_.write_word(address, word, strobe) : void(word = ddr_.read_word(address));
            return OKAY;
        }
        uint8_t *bytes = on_chip_.get() + (address - ON_CHIP);
        if (!write) memcpy(&word, bytes, 4);
        for (int i = 0; write && i < 4; i++)
            if (strobe >> i & 1) bytes[i] = word >> (8 * i);
        return OKAY;
    }
    if (!has_clock(address)) return NEVER;
    uint32_t block = address & ~0xFFFu, offset = address & 0xFFF;
    if (block == UART1) {
        write ? uart_.write(offset, word) : void(word = uart_.read(offset));
    } else if (block == GEM0) {
        write ? gem_.write(offset, word) : void(word = gem_.read(offset));
    } else if (block == TIMER && !write && offset == TIMER_VALUE) {
        word = timer_count();
    } else if ((address >= SYSTEM && address < SYSTEM_END) || block == GPIO || block == QSPI) {
        if (write)
            system_write(address, word);
        else
            word = system(address);
    } else {
        return DECERR;
    }
    return OKAY;
}

void ProcessingSystem::system_write(uint32_t address, uint32_t word) {
    clocks_known_ = false;
    if (address == UNLOCK || address == LOCK) {
        if (word == (address == LOCK ? 0x767Bu : 0xDF0Du)) locked_ = address == LOCK;
        return;
    }
    if (address < CONTROL_END && locked_) return;
    system_[address] = word;
    set_port(address, word);
    if (address == TIMER + TIMER_CONTROL && word & 0x10) timer_start_ = ddr_.cycles();
    // what the steps wait for
    system_[PLL_STATUS] = 7;
    system_[DCI_STATUS] = 1 << 13;
    system_[DDR_STATUS] = 1;
}

// A memory port's own registers (UG585, "AXI_HP Interfaces"): commands at once, and 32-bit mode.
void ProcessingSystem::set_port(uint32_t address, uint32_t word) {
    if (address < MEMORY_PORTS || address >= MEMORY_PORTS + Ddr::PORTS * 0x1000) return;
    uint32_t port = (address - MEMORY_PORTS) >> 12, offset = address & 0xFFF;
    bool writes = offset >= 0x14;
    if (writes && port >= Ddr::WRITE_PORTS) return;
    uint32_t stream = writes ? Ddr::PORTS + port : port;
    if (offset == 0 || offset == 0x14) ddr_.faults.narrow[stream] = word & 1;
    if (offset == 4 || offset == 0x18) ddr_.faults.commands[stream] = (word & 7) + 1;
}

// Counter 1 of TTC0, which counts the registers' clock, divided by a power of two.
uint32_t ProcessingSystem::timer_count() {
    uint32_t clock = system(TIMER);
    double ticks = (ddr_.cycles() - timer_start_) / FABRIC_HZ * peripheral_bus_hz();
    int prescale = clock & 1 ? (clock >> 1 & 15) + 1 : 0;
    return static_cast<uint64_t>(ticks / (1 << prescale)) & 0xFFFF;
}

double ProcessingSystem::io_pll_hz() {
    uint32_t control = system(IO_PLL);
    bool off = control & 0x13;  // reset, powered down, or passed by
    return CRYSTAL_HZ * (off ? 1 : control >> 12 & 0x7F);
}

double ProcessingSystem::uart_hz() {
    uint32_t clock = system(UART_CLOCK), divisor = clock >> 8 & 63;
    return clock & 2 && divisor && !(clock & 0x30) ? io_pll_hz() / divisor : 0;
}

double ProcessingSystem::gem_hz() {
    uint32_t clock = system(GEM_CLOCK), first = clock >> 8 & 63, second = clock >> 20 & 63;
    return clock & 1 && first && second && !(clock & 0x70) ? io_pll_hz() / first / second : 0;
}

// A sixth of the CPU's clock, from the ARM PLL.
double ProcessingSystem::peripheral_bus_hz() {
    uint32_t divisor = system(ARM_CLOCK) >> 8 & 63;
    return divisor ? CRYSTAL_HZ * (system(ARM_PLL) >> 12 & 0x7F) / divisor / 6 : 0;
}

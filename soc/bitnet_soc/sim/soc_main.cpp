// The simulated board: Verilated SoC, DDR model, UART, Ethernet, and a control port for statistics.
//
// soc_sim [--preset NAME|FILE] [--seed N] [--preload FILE] [--udp PORT]
//         [--tcp PORT] [--max-cycles N]
//
// The UDP port is the one for datagrams; Etherbone and raw frames have ports of their own
// (network.hpp). Prints one line of JSON with the ports when it is up, and ends when its parent
// does.
#include <arpa/inet.h>
#include <csignal>
#include <cstring>
#include <string>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "Vsoc.h"
#include "doze.hpp"
#include "outside.hpp"
#include "verilated.h"

static constexpr uint64_t DDR_BYTES = 1ull << 30;
static constexpr int POLL_EVERY = 64;  // cycles
// nothing comes from outside before the SoC is out of reset
static constexpr uint64_t RESET_CYCLES = 16, QUIET_CYCLES = 256;
// cycles that the TVU's clock goes on after it has nothing to do
static constexpr int TVU_LINGER = 32;
static constexpr double CLOCK_HZ = 125e6;

// A UDP port that answers every text with the memory model's counters. It obeys "quit", "reset"
// (the board's button), "fail MASK" (Ddr::failing), "freeze 1" or "freeze 0", "save OFFSET BYTES
// FILE", which writes what memory holds there, "fault ..." (DdrFaults::obey), "stall 1" or "stall
// 0" (the CPU's way to memory answers nothing), and what else the board has (Outside::obey).
class Control {
  public:
    Control() {
        socket_ = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof address;
        if (bind(socket_, reinterpret_cast<sockaddr *>(&address), length) < 0) {
            perror("control port");
            exit(2);
        }
        getsockname(socket_, reinterpret_cast<sockaddr *>(&address), &length);
        port = ntohs(address.sin_port);
    }

    bool poll(Ddr &ddr, Outside &outside) {  // false: quit
        char text[512];
        sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t n = recvfrom(socket_, text, sizeof text - 1, 0, reinterpret_cast<sockaddr *>(&from),
                             &length);
        if (n < 0) return true;
        commands++;
        text[n] = 0;
        if (!strcmp(text, "quit")) return false;
        if (!strcmp(text, "reset")) reset = true;
        if (!strncmp(text, "fail ", 5)) ddr.failing = strtoul(text + 5, nullptr, 0);
        if (!strncmp(text, "freeze ", 7)) ddr.frozen = text[7] == '1';
        if (!strncmp(text, "fault ", 6)) ddr.faults.obey(text + 6);
        outside.obey(text);
        if (!strncmp(text, "save ", 5)) save(ddr, text + 5);
        int size = snprintf(text, sizeof text,
                            "{\"cycles\": %llu, \"peak\": %llu, \"used\": %llu, \"owed\": %llu}",
                            static_cast<unsigned long long>(ddr.cycles()),
                            static_cast<unsigned long long>(ddr.peak()),
                            static_cast<unsigned long long>(ddr.used()),
                            static_cast<unsigned long long>(ddr.owed()));
        sendto(socket_, text, size, 0, reinterpret_cast<sockaddr *>(&from), length);
        return true;
    }

    static void save(Ddr &ddr, const char *what) {
        unsigned long long offset, bytes;
        int path = 0;
        if (sscanf(what, "%llu %llu %n", &offset, &bytes, &path) < 2 || offset > DDR_BYTES ||
            bytes > DDR_BYTES - offset)
            return;
        if (FILE *file = fopen(what + path, "wb")) {
            fwrite(ddr.memory() + offset, 1, bytes, file);
            fclose(file);
        }
    }

    int port = 0;
    bool reset = false;  // the button was pressed
    uint64_t commands = 0;

  private:
    int socket_;
};

int main(int argc, char **argv) {
    std::string preload;
    std::string preset_name = "ug585";
    int udp_port = 0, tcp_port = 0;
    uint32_t seed = 1;
    uint64_t max_cycles = ~0ull;
    for (int i = 1; i < argc; i += 2) {
        std::string option = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
        char *end = nullptr;
        uint64_t number = strtoull(value.c_str(), &end, 0);
        bool is_number = !value.empty() && !*end;
        if (option == "--preload" && !value.empty())
            preload = value;
        else if (option == "--udp" && is_number)
            udp_port = number;
        else if (option == "--tcp" && is_number)
            tcp_port = number;
        else if (option == "--max-cycles" && is_number)
            max_cycles = number;
        else if (option == "--seed" && is_number)
            seed = number;
        else if (option == "--preset" && !value.empty())
            preset_name = value;
        else {
            bool help = option == "--help" || option == "-h";
            if (!help) fprintf(stderr, "soc_sim does not know \"%s %s\"\n", argv[i], value.c_str());
            fprintf(help ? stdout : stderr,
                    "usage: soc_sim [--preset NAME|FILE] [--seed N] [--preload "
                    "FILE] [--udp PORT] "
                    "[--tcp PORT] [--max-cycles N]\n");
            return help ? 0 : 2;
        }
    }
    DdrPreset preset = load_preset(preset_name);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN);  // Ctrl-C is for the host tool: the board keeps running

    Vsoc *top = new Vsoc;
    Ddr ddr(DDR_BYTES, preload, preset, CLOCK_HZ, seed);
    Outside outside(top, ddr, udp_port, tcp_port, preset.gaps > 0, seed);
    Control control;
    Doze doze;
    uint64_t busy = 0;  // cycles in which the TVU was awake
    printf(
        "{\"udp\": %d, \"etherbone\": %d, \"raw\": %d, \"tcp\": %d, \"pty\": \"%s\", \"control\": "
        "%d}\n",
        outside.network.port(Network::DATAGRAMS), outside.network.port(Network::ETHERBONE),
        outside.network.port(Network::RAW), outside.serial.tcp_port(), outside.serial.pty().c_str(),
        control.port);
    fflush(stdout);
    dup2(2, 1);  // what an assertion writes

    top->sys_rst = 1;
    uint64_t reset_at = 0;
    int linger = TVU_LINGER;
    for (uint64_t cycle = 0; cycle < max_cycles; cycle++) {
        if (top->tvu_fast_clk) {  // its second edge of the cycle
            top->tvu_fast_clk = 0;
            top->eval();
            top->tvu_fast_clk = 1;
            top->eval();
        }
        top->sys_clk = 0;
        top->tvu_clk = top->tvu_dot_clk = top->tvu_fast_clk = top->tvu_fill_clk = 0;
        top->eval();
        ddr.sample();
        outside.sample();
        // Evaluating a sleeping TVU would take most of the simulation's time.
        uint8_t awake = top->tvu_awake;
        linger = awake & 1 || cycle - reset_at < QUIET_CYCLES ? TVU_LINGER : linger - (linger > 0);
        ddr.measuring = awake & 1;
        busy += awake & 1;
        top->sys_clk = 1;
        top->tvu_clk = linger > 0;
        top->tvu_dot_clk = top->tvu_fast_clk = awake >> 1 & 1;
        top->tvu_fill_clk = awake >> 2 & 1;
        top->eval();
        ddr.drive();
        bool quiet = cycle - reset_at < QUIET_CYCLES;
        outside.drive(quiet);
        if (cycle - reset_at == RESET_CYCLES) top->sys_rst = 0;
        if (control.reset) {
            control.reset = false;
            reset_at = cycle;
            top->sys_rst = 1;
            outside.reset();
        }
        if (cycle % POLL_EVERY == 0 && !quiet) {
            outside.poll();
            if (!control.poll(ddr, outside)) return 0;
            doze.poll(cycle,
                      busy + control.commands + outside.network.moved() + outside.serial.moved());
        }
    }
    return 0;
}

// Runs a TVU program outside of the SoC: the test bench of tests/gateware/test_tvu.py.
//
// tvu_sim MEMORY PROGRAM OUTPUT [PRESET [SEED]]: MEMORY is loaded at address 0; PROGRAM holds
// triples of 32-bit words (function id, rs1, rs2). Function ids that do not exist stand for what
// the bench does:
//   0xffffffff  wait until the unit is idle; the response is STATUS
//   0xfffffffe  memory answers errors from then on, on the ports of rs1 (Ddr::failing)
//   0xfffffffd  the reset line: after rs1 cycles, for rs2 cycles
//   0xfffffffc  memory neither takes nor answers anything (rs1 1), or does again (0)
//   0xfffffffb  pass rs1 cycles
// OUTPUT receives one 32-bit response per triple, then all of MEMORY's size.
#include <cstring>
#include <unistd.h>

#include "VCfu.h"
#include "pins.hpp"
#include "verilated.h"

static constexpr uint32_t WAIT_IDLE = 0xffffffff, FAIL = 0xfffffffe, RESET_LINE = 0xfffffffd,
                          FREEZE = 0xfffffffc, PASS = 0xfffffffb;
static constexpr uint32_t STATUS_ID = 1 << 3;
static constexpr long LIMIT = 5000000;

static VCfu *top;
static Ddr *ddr;
static unsigned random_state = 1;

static void low() {
    if (top->fast_clk) {  // its second edge of the cycle
        top->fast_clk = 0;
        top->eval();
        top->fast_clk = 1;
        top->eval();
    }
    top->clk = top->dot_clk = top->fast_clk = top->fill_clk = 0;
    top->eval();
    ddr->sample();
}

static void high() {
    uint8_t awake = top->awake;  // clocks stop as they do in the SoC simulation
    top->clk = 1;
    top->dot_clk = top->fast_clk = awake >> 1 & 1;
    top->fill_clk = awake >> 2 & 1;
    top->eval();
    ddr->drive();
}

static void tick() {
    low();
    high();
}

static uint32_t next_random() { return random_state = random_state * 1664525 + 1013904223; }

// Issues a command after a random pause and takes its response with random delays.
static uint32_t command(uint32_t id, uint32_t rs1, uint32_t rs2) {
    for (uint32_t pause = next_random() >> 30 ? 0 : next_random() >> 28; pause > 0; pause--) tick();
    top->cmd_valid = 1;
    top->cmd_payload_function_id = id;
    top->cmd_payload_inputs_0 = rs1;
    top->cmd_payload_inputs_1 = rs2;
    bool taken = false;
    for (long i = 0; i < LIMIT; i++) {
        top->rsp_ready = next_random() >> 31;
        low();
        if (!top->cmd_valid && !top->cmd_ready) {
            fprintf(stderr, "cmd_ready is low while no command is offered\n");
            exit(5);
        }
        bool accept = top->cmd_valid && top->cmd_ready,
             answered = top->rsp_valid && top->rsp_ready && taken;
        uint32_t answer = top->rsp_payload_outputs_0;
        high();
        if (accept) {
            taken = true;
            top->cmd_valid = 0;
        }
        if (answered) return answer;
    }
    fprintf(stderr, "function id %u was never answered\n", id);
    exit(4);
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: tvu_sim MEMORY PROGRAM OUTPUT [PRESET [SEED]]\n");
        return 2;
    }
    dup2(2, 1);  // what an assertion writes
    DdrPreset preset = load_preset(argc > 4 ? argv[4] : "ug585");
    uint32_t seed = argc > 5 ? strtoul(argv[5], nullptr, 0) : 1;
    random_state = seed;
    FILE *file = fopen(argv[1], "rb");
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    fclose(file);
    top = new VCfu;
    ddr = new Ddr(size, argv[1], preset, 125e6, seed);
    ATTACH_ALL(*ddr, top, );
    top->reset = 1;
    for (int i = 0; i < 8; i++) tick();
    top->reset = 0;
    for (int i = 0; i < 4; i++) tick();

    FILE *program = fopen(argv[2], "rb"), *output = fopen(argv[3], "wb");
    uint32_t words[3];
    while (fread(words, 4, 3, program) == 3) {
        uint32_t answer = 0;
        if (words[0] == FAIL) {
            ddr->failing = words[1];
        } else if (words[0] == RESET_LINE) {
            for (uint32_t i = 0; i < words[1]; i++) tick();
            top->reset = 1;
            for (uint32_t i = 0; i < words[2]; i++) tick();
            top->reset = 0;
        } else if (words[0] == FREEZE) {
            ddr->frozen = words[1];
        } else if (words[0] == PASS) {
            for (uint32_t i = 0; i < words[1]; i++) tick();
        } else if (words[0] == WAIT_IDLE) {
            for (long i = 0; (answer = command(STATUS_ID, 0, 0)) >> 31; i++)
                if (i > LIMIT / 4) {
                    fprintf(stderr, "the unit never became idle\n");
                    return 4;
                }
        } else {
            answer = command(words[0], words[1], words[2]);
        }
        fwrite(&answer, 4, 1, output);
    }
    fwrite(ddr->memory(), 1, size, output);
    fclose(output);
    fprintf(
        stderr, "cycles %llu peak %llu used %llu\n", static_cast<unsigned long long>(ddr->cycles()),
        static_cast<unsigned long long>(ddr->peak()), static_cast<unsigned long long>(ddr->used()));
    return 0;
}

// The CPU alone with a model of a CFU: runs PROGRAM (binary, at address 0) until it writes to
// 0xf0000000, prints the words that it wrote to 0x20000000 and on, and how many commands the CFU
// took.
//
// cfu_cpu PROGRAM SEED RULE: the CFU's `ready` is low at random while a command is offered; with
// RULE 0 also while none is.
#include <cstdio>
#include <cstdlib>

#include "VVexRiscv.h"

static uint32_t state;
static uint32_t draw() {
    state ^= state << 13;
    state ^= state >> 17;
    return state ^= state << 5;
}

static uint32_t answer(uint32_t id, uint32_t a, uint32_t b) {
    return a * 3 + (b ^ id * 2654435761u) + id;
}

int main(int, char **argv) {
    static uint32_t rom[1 << 16], ram[1 << 12];
    FILE *file = fopen(argv[1], "rb");
    size_t size = fread(rom, 1, sizeof rom, file);
    fclose(file);
    state = strtoul(argv[2], nullptr, 0) * 2654435761u | 1;
    bool rule = atoi(argv[3]);
    VVexRiscv top;
    top.externalResetVector = 0;
    top.reset = 1;
    bool acked_i = false, acked_d = false, pending = false, ended = false;
    uint32_t response = 0;
    unsigned long commands = 0;
    for (unsigned long cycle = 0; cycle < 4000000 && !ended; cycle++) {
        top.clk = 0;
        if (cycle == 8) top.reset = 0;
        top.CfuPlugin_bus_rsp_valid = pending && draw() % 4;
        top.CfuPlugin_bus_rsp_payload_outputs_0 = response;
        top.CfuPlugin_bus_cmd_ready = 0;
        top.eval();
        bool room = draw() % 3 && !pending;
        top.CfuPlugin_bus_cmd_ready = room || (rule && !top.CfuPlugin_bus_cmd_valid);
        top.eval();
        bool taken = top.CfuPlugin_bus_cmd_valid && top.CfuPlugin_bus_cmd_ready && !top.reset;
        uint32_t fresh =
            answer(top.CfuPlugin_bus_cmd_payload_function_id,
                   top.CfuPlugin_bus_cmd_payload_inputs_0, top.CfuPlugin_bus_cmd_payload_inputs_1);
        bool given = top.CfuPlugin_bus_rsp_valid && top.CfuPlugin_bus_rsp_ready;
        bool i = top.iBusWishbone_CYC && top.iBusWishbone_STB && !acked_i && draw() % 4;
        bool d = top.dBusWishbone_CYC && top.dBusWishbone_STB && !acked_d && draw() % 3 == 0;
        uint32_t i_word = rom[top.iBusWishbone_ADR & 0xffff], d_address = top.dBusWishbone_ADR << 2;
        bool d_we = top.dBusWishbone_WE;
        uint32_t d_out = top.dBusWishbone_DAT_MOSI, d_in = 0, sel = top.dBusWishbone_SEL;
        if (d) {
            uint32_t *word = &ram[d_address >> 2 & 0xfff];
            if (d_we && d_address == 0xf0000000) ended = true;
            if (d_we && d_address >> 28 == 2)
                for (int byte = 0; byte < 4; byte++)
                    if (sel >> byte & 1)
                        *word = (*word & ~(255u << 8 * byte)) | (d_out & 255u << 8 * byte);
            d_in = d_address >> 28 == 2 ? *word : rom[d_address >> 2 & 0xffff];
        }
        top.clk = 1;
        top.eval();
        top.iBusWishbone_ACK = acked_i = i;
        if (i) top.iBusWishbone_DAT_MISO = i_word;
        top.dBusWishbone_ACK = acked_d = d;
        if (d) top.dBusWishbone_DAT_MISO = d_in;
        if (given) pending = false;
        if (taken) {
            pending = true;
            response = fresh;
            commands++;
        }
    }
    if (!ended || size == 0) {
        fprintf(stderr, "the program never ended\n");
        return 3;
    }
    printf("%lu\n", commands);
    for (uint32_t word : ram) printf("%u\n", word);
    return 0;
}

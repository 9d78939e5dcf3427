// SD cards behind the controller of the processing system (SD Host Controller Specification 2.0; SD
// Physical Layer Specification 2.0).
#include "boot.h"

// registers, 32 bits each
#define BLOCKS (BOARD_SD + 0x04) // size, and count above it
#define ARGUMENT (BOARD_SD + 0x08)
#define COMMAND (BOARD_SD + 0x0c) // transfer mode, and command above it
#define RESPONSE (BOARD_SD + 0x10)
#define STATE (BOARD_SD + 0x24)
#define HOST (BOARD_SD + 0x28)  // with the card's power in the second byte
#define CLOCK (BOARD_SD + 0x2c) // with time-out and resets in the upper bytes
#define STATUS (BOARD_SD + 0x30)
#define STATUS_ENABLE (BOARD_SD + 0x34)
#define ADMA_TABLE (BOARD_SD + 0x58)

#define LINES_BUSY 3u // of STATE
#define DATA_BUSY 2u
#define FOUR_BITS 0x02u // of HOST
#define HIGH_SPEED 0x04u
#define ADMA2 0x10u
#define POWER_3V3 0x0f00u
#define CLOCK_INTERNAL 1u // of CLOCK
#define CLOCK_STABLE 2u
#define CLOCK_OUT 4u
#define LONGEST_TIMEOUT 0x000e0000u
#define RESET_ALL 0x01000000u
#define RESET_LINES 0x06000000u
#define COMMAND_DONE 1u // of STATUS
#define TRANSFER_DONE 2u
#define FAILED 0xffff8000u

// of COMMAND: the answer that a command has, and what goes with it
#define NO_ANSWER 0u
#define ANSWER_136 (0x09u << 16)
#define ANSWER (0x1au << 16)
#define ANSWER_BUSY (0x1bu << 16)
#define ANSWER_UNCHECKED (0x02u << 16)
#define WITH_DATA (0x20u << 16)
#define READ_DMA 0x13u // reads by DMA and counts blocks
#define MANY 0x24u     // more than one block, stopped by the controller

#define STOP 12u
#define ABORT (0xc0u << 16)

#define VOLTAGE 0x00ff8000u // 2.7 to 3.6 V
#define HIGH_CAPACITY 0x40000000u
#define READY 0x80000000u
#define PATTERN 0x1aau // of CMD8: 2.7 to 3.6 V, and bits to come back
#define TO_HIGH_SPEED 0x80fffff1u
#define COMMAND_MS 100
#define DATA_MS 1000
#define CARD_MS 1000
#define TRIES 3 // the last one at the slower clock
#define SLOW 25000000u

// The DMA's table: pieces of 32 KB.
#define PIECE 0x8000u
#define PIECES 8u
#define PIECE_MOVES 0x21u
#define PIECE_LAST 0x02u
static struct {
    uint32_t what, address;
} table[PIECES] __attribute__((aligned(8)));

static bool by_blocks;   // a card of high capacity is addressed so
static uint32_t address; // of the card, as the commands want it

static void set_clock(uint32_t hz)
{
    uint32_t divisor = 1;
    while (BOARD_SD_HZ / divisor > hz && divisor < 256)
        divisor *= 2;
    hw_write(CLOCK, LONGEST_TIMEOUT);
    hw_write(CLOCK, LONGEST_TIMEOUT | (divisor / 2) << 8 | CLOCK_INTERNAL);
    hw_wait(CLOCK, CLOCK_STABLE, true, COMMAND_MS);
    hw_write(CLOCK, hw_read(CLOCK) | CLOCK_OUT);
    hw_delay(1); // more than the 74 clocks that a card needs at first
}

static void reset(uint32_t what)
{
    hw_write(CLOCK, hw_read(CLOCK) | what);
    hw_wait(CLOCK, what, false, COMMAND_MS);
}

static bool send(uint32_t index, uint32_t kind, uint32_t argument)
{
    hw_write(STATUS, ~0u);
    hw_write(ARGUMENT, argument);
    hw_write(COMMAND, index << 24 | kind);
    bool done =
        hw_wait(STATUS, COMMAND_DONE | FAILED, true, COMMAND_MS) && !(hw_read(STATUS) & FAILED);
    if (!done)
        reset(RESET_LINES);
    return done;
}

static bool command(uint32_t index, uint32_t kind, uint32_t argument)
{
    return hw_wait(STATE, LINES_BUSY, false, COMMAND_MS) && send(index, kind, argument);
}

static bool application_command(uint32_t index, uint32_t kind, uint32_t argument)
{
    return command(55, ANSWER, address) && command(index, kind, argument);
}

static bool transfer(uint32_t index, uint32_t argument, uint32_t to, uint32_t bytes,
                     uint32_t blocks)
{
    uint32_t left = bytes * blocks;
    for (uint32_t i = 0; left; i++) {
        uint32_t now = left < PIECE ? left : PIECE;
        left -= now;
        table[i].what = now << 16 | PIECE_MOVES | (left ? 0 : PIECE_LAST);
        table[i].address = to;
        to += now;
    }
    hw_write(ADMA_TABLE, (uint32_t)(uintptr_t)table);
    hw_write(BLOCKS, blocks << 16 | bytes);
    if (!command(index, ANSWER | WITH_DATA | READ_DMA | (blocks > 1 ? MANY : 0), argument))
        return false;
    if (hw_wait(STATUS, TRANSFER_DONE | FAILED, true, DATA_MS) && !(hw_read(STATUS) & FAILED))
        return true;
    reset(RESET_LINES);
    if (blocks > 1) { // the controller stops the card only after what went well
        send(STOP, ANSWER_BUSY | ABORT, 0);
        hw_wait(STATE, DATA_BUSY, false, DATA_MS);
    }
    return false;
}

// Twice the clock, where the card has that (version 1.1 and newer).
static void speed_up(void)
{
    static uint8_t status[64] __attribute__((aligned(4)));
    if (!transfer(6, TO_HIGH_SPEED, (uint32_t)(uintptr_t)status, sizeof status, 1) ||
        (status[16] & 15) != 1)
        return;
    hw_write(HOST, hw_read(HOST) | HIGH_SPEED);
    set_clock(50000000);
}

// Until the card has powered up: its answer has what it can do.
static bool powered_up(uint32_t capacity)
{
    for (uint32_t waited = 0; waited < CARD_MS; waited += 10) {
        if (!application_command(41, ANSWER_UNCHECKED, VOLTAGE | capacity))
            return false;
        if (hw_read(RESPONSE) & READY) {
            by_blocks = hw_read(RESPONSE) & HIGH_CAPACITY;
            return true;
        }
        hw_delay(10);
    }
    return false;
}

bool sd_start(void)
{
    address = 0;
    reset(RESET_ALL);
    hw_write(HOST, POWER_3V3 | ADMA2);
    hw_write(STATUS_ENABLE, ~0u);
    set_clock(400000);
    command(0, NO_ANSWER, 0);
    // cards before version 2 do not know CMD8
    bool newer = command(8, ANSWER, PATTERN) && (hw_read(RESPONSE) & 0xfff) == PATTERN;
    if (!powered_up(newer ? HIGH_CAPACITY : 0) || !command(2, ANSWER_136, 0) ||
        !command(3, ANSWER, 0))
        return false;
    address = hw_read(RESPONSE) & 0xffff0000;
    set_clock(SLOW);
    if (!command(7, ANSWER_BUSY, address) || !hw_wait(STATE, DATA_BUSY, false, DATA_MS) ||
        !application_command(6, ANSWER, 2))
        return false;
    hw_write(HOST, hw_read(HOST) | FOUR_BITS);
    speed_up();
    return command(16, ANSWER, SD_BLOCK);
}

bool sd_read(uint32_t block, uint32_t count, uint32_t to)
{
    while (count) {
        uint32_t most = PIECES * PIECE / SD_BLOCK;
        uint32_t now = count < most ? count : most;
        uint32_t where = by_blocks ? block : block * SD_BLOCK, tries = TRIES;
        while (!transfer(now > 1 ? 18 : 17, where, to, SD_BLOCK, now)) {
            if (!--tries)
                return false;
            if (tries == 1)
                set_clock(SLOW);
        }
        block += now;
        count -= now;
        to += now * SD_BLOCK;
    }
    return true;
}

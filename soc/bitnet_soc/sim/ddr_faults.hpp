// Faults of a board that the memory model plays: lines that are stuck or swapped, ports that are
// set up wrong.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

class DdrFaults {
  public:
    // HP0 to HP3 reading, the writes of HP0 and HP1, and the CPU's side
    static constexpr int STREAMS = 7, CPU = 6;

    size_t commands[STREAMS] = {8, 8, 8, 8, 8, 8, 8};  // that a port takes at most at once
    bool narrow[STREAMS] = {};  // in 32-bit mode: half of each beat, words one after another

    // Obeys "STREAM stuck BIT VALUE" (a data line), "STREAM swap BIT BIT" or "STREAM low BIT" (of
    // the address, 3 to 28), "STREAM narrow", "STREAM commands N", "0 cell ADDRESS" (the lowest bit
    // of a byte, for all ports that read), and "none".
    bool obey(const char *text);

    uint64_t address(int stream, uint64_t address) const;
    uint64_t data(int stream, uint64_t beat) const {
        return (beat | ones_[stream]) & ~zeros_[stream];
    }
    // Beat `number` of a read that begins at `address`
    uint64_t read_beat(int stream, const uint8_t *memory, uint64_t address, int number) const;

    uint32_t read_word(const uint8_t *memory, uint64_t address) const;
    void write_word(uint8_t *memory, uint64_t address, uint32_t word, unsigned strobe) const;

  private:
    uint64_t ones_[STREAMS] = {}, zeros_[STREAMS] = {}, low_[STREAMS] = {};
    int swap_[STREAMS][2] = {};
    uint32_t cell_ = 0;
};

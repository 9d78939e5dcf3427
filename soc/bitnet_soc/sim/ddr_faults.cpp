#include "ddr_faults.hpp"

#include <cstdio>

// Of an address line that, wrong, leads to other places in memory.
static bool is_line(int bit) { return bit >= 3 && bit < 29; }

bool DdrFaults::obey(const char *text) {
    int stream, first, second;
    char what[16];
    if (!strcmp(text, "none")) {
        *this = DdrFaults();
        return true;
    }
    int found = sscanf(text, "%d %15s %d %d", &stream, what, &first, &second);
    if (found < 2 || stream < 0 || stream >= STREAMS) return false;
    if (!strcmp(what, "stuck") && found == 4 && first >= 0 && first < 64)
        (second ? ones_ : zeros_)[stream] |= 1ull << first;
    else if (!strcmp(what, "swap") && found == 4 && is_line(first) && is_line(second))
        swap_[stream][0] = first, swap_[stream][1] = second;
    else if (!strcmp(what, "cell") && found == 3)
        cell_ = first;
    else if (!strcmp(what, "low") && found == 3 && is_line(first))
        low_[stream] |= 1ull << first;
    else if (!strcmp(what, "narrow"))
        narrow[stream] = true;
    else if (!strcmp(what, "commands") && found == 3 && first > 0)
        commands[stream] = first;
    else
        return false;
    return true;
}

uint64_t DdrFaults::address(int stream, uint64_t address) const {
    int a = swap_[stream][0], b = swap_[stream][1];
    uint64_t differ = (address >> a ^ address >> b) & 1;
    return (address ^ (differ << a | differ << b) * (a != b)) & ~low_[stream];
}

uint64_t DdrFaults::read_beat(int stream, const uint8_t *memory, uint64_t address,
                              int number) const {
    uint64_t beat = 0;
    int bytes = narrow[stream] ? 4 : 8;
    memcpy(&beat, memory + this->address(stream, address + bytes * number), bytes);
    if (!narrow[stream] && address + 8 * number == (cell_ & ~7u))
        beat &= ~(1ull << 8 * (cell_ & 7));
    return data(stream, beat);
}

uint32_t DdrFaults::read_word(const uint8_t *memory, uint64_t address) const {
    uint32_t word;
    memcpy(&word, memory + this->address(CPU, address), 4);
    return data(CPU, word);
}

void DdrFaults::write_word(uint8_t *memory, uint64_t address, uint32_t word,
                           unsigned strobe) const {
    word = data(CPU, word);
    address = this->address(CPU, address);
    for (int i = 0; i < 4; i++)
        if (strobe >> i & 1) memory[address + i] = word >> (8 * i);
}

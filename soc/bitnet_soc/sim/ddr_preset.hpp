// What the memory model charges, as a named preset or read from a file.
//
// A file has lines of a name and a number, such as "row_miss 12"; # begins a comment. "base NAME"
// says which preset the others are taken from, ug585 if nothing does. docs/performance.md explains
// the names and says what is known of each.
//
// The preset `hostile` is not about speed: every channel stutters at random, latencies differ from
// burst to burst, a read gives what memory held when its address was taken, a write shows when its
// response is taken, and memory starts full of rubbish. AXI allows all of it.
#pragma once

#include <string>

struct DdrPreset {
    std::string name;
    // from a burst's place on the bus to its first beat, or to the response of a write
    double read_ns, read_cycles, write_ns, write_cycles;
    double burst_overhead;  // DRAM clocks per burst, whatever it holds
    double row_miss;        // DRAM clocks that opening another row leaves exposed
    double turnaround;      // DRAM clocks between a read and a write
    double pair_share;      // share of the bus that HP0 and HP1, or HP2 and HP3, can take
    double refresh_every_ns, refresh_ns;
    double commands;                 // that a port takes before the first is answered, 1 to 8
    double delay_least, delay_most;  // fabric clocks more that a burst takes, at random
    double gaps;  // in 16 cycles, on average, in which a channel that could move does not
};

// The preset of that name, or of the file. Says what is wrong and ends the program if there is
// none.
DdrPreset load_preset(const std::string &name_or_file);

// Lets the machine that simulates a board rest while nobody does anything with the board.
//
// A board that waits for its host looks for a command for ever, which costs a simulation as much as
// work does. So once nothing has moved for QUIET cycles, only every PERIOD cycles are simulated
// before a pause of PAUSE_US: the board's clock goes on, slowly, and what comes from outside is
// seen after a pause at the latest.
#pragma once

#include <cstdint>
#include <unistd.h>

class Doze {
  public:
    // Call it where the outside is polled: moved is any count that changes when something does.
    void poll(uint64_t cycle, uint64_t moved) {
        if (moved != moved_) {
            moved_ = moved;
            since_ = cycle;
        } else if (cycle - since_ > QUIET && cycle - paused_ >= PERIOD) {
            usleep(PAUSE_US);
            paused_ = cycle;
        }
    }

  private:
    static constexpr uint64_t QUIET = 1'000'000, PERIOD = 256;
    static constexpr int PAUSE_US = 10'000;
    uint64_t moved_ = 0, since_ = 0, paused_ = 0;
};

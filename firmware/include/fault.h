// Faults: what went wrong is kept and reported; nothing hangs in silence.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Records an error of the running command; the first one is kept.
void fault_raise(uint32_t code, uint32_t detail);
bool fault_pending(void);
// Sends the recorded error to the host.
void fault_tell(void);
void fault_forget(void);

// Why the firmware starts: kept in memory that a restart leaves alone.
struct restart {
    uint32_t count;        // starts since the board was configured, less one
    uint32_t code, detail; // the error that ended the last run, or 0
};
extern const struct restart *const fault_restart;
// To be called first: finds out why the firmware starts.
void fault_boot(void);
// Notes what is being done, for the case that it never ends: a command, or 0.
void fault_doing(uint32_t command);

// Waits until the TVU is idle. False, with a fault raised and the TVU reset, if it reports an
// error; it does so, too, when nothing gets on for 2^22 cycles.
bool tvu_wait(void);

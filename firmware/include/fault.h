// Faults: what went wrong is kept and reported; nothing hangs in silence.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Records an error of the running command; the first one is kept.
void fault_raise(uint32_t code, uint32_t detail);
bool fault_pending(void);
// Sends the recorded error to the host and forgets it.
void fault_report(void);

// Waits until the TVU is idle. False, with a fault raised, if it reports an error or takes longer than half a minute.
bool tvu_wait(void);

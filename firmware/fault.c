#include "fault.h"

#include "board.h"
#include "link.h"
#include "uart.h"
#include <generated/tvu.h>

#define KEPT_MAGIC 0x57a27ed1u

static uint32_t fault_code, fault_detail;

// What survives a restart.
static struct {
    uint32_t magic;
    uint32_t doing;         // the running command
    uint32_t watchdog;      // CPU restarts that the watchdog had counted when the firmware started
    uint32_t trap, address; // cause plus one
    struct restart restart;
} kept __attribute__((section(".noinit")));
const struct restart *const fault_restart = &kept.restart;

void fault_boot(void)
{
    uint32_t fired = watchdog_restarts_read();
    if (kept.magic != KEPT_MAGIC) {
        kept.magic = KEPT_MAGIC;
        kept.restart.count = ~0u;
        kept.trap = 0;
        kept.watchdog = fired;
    }
    kept.restart.count++;
    kept.restart.code = kept.restart.detail = 0;
    if (kept.trap) {
        kept.restart.code = ERROR_TRAP;
        kept.restart.detail = kept.address;
    } else if (fired != kept.watchdog && fired) {
        kept.restart.code = ERROR_HANG;
        kept.restart.detail = kept.doing;
    }
    kept.watchdog = fired;
    kept.trap = kept.doing = 0;
    watchdog_feed();
}

void fault_doing(uint32_t command)
{
    kept.doing = command;
}

void fault_raise(uint32_t code, uint32_t detail)
{
    if (fault_code)
        return;
    fault_code = code;
    fault_detail = detail;
}

bool fault_pending(void)
{
    return fault_code != 0;
}

void fault_tell(void)
{
    link_error(fault_code, fault_detail);
}

void fault_forget(void)
{
    fault_code = fault_detail = 0;
}

bool tvu_wait(void)
{
    uint32_t status;
    while ((status = tvu_status()) == TVU_BUSY)
        watchdog_feed();
    if (status) {
        tvu_reset();
        fault_raise(ERROR_TVU, status & ~TVU_BUSY);
    }
    return !fault_pending();
}

void fault_trap(uint32_t cause, uint32_t address);
void fault_trap(uint32_t cause, uint32_t address)
{
    kept.trap = 1;
    kept.address = cause << 24 | (address & 0xffffff);
    watchdog_feed();
    uart_text("\ntrap: cause ");
    uart_hex(cause);
    uart_text(" at ");
    uart_hex(address);
    uart_text("\n");
    link_release();
    link_error(ERROR_TRAP, cause << 24 | (address & 0xffffff));
}

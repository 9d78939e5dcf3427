#include "fault.h"

#include "board.h"
#include "link.h"
#include <generated/tvu.h>

#define TVU_BUSY 0x80000000u
#define WAIT_CYCLES 0xf0000000u // half a minute at 125 MHz: longer than any operation

static uint32_t fault_code, fault_detail;

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

void fault_report(void)
{
    link_error(fault_code, fault_detail);
    fault_code = fault_detail = 0;
}

bool tvu_wait(void)
{
    uint32_t start = cycles_low(), status;
    while ((status = tvu_status()) & TVU_BUSY)
        if (cycles_low() - start > WAIT_CYCLES) {
            fault_raise(ERROR_TIMEOUT, status);
            return false;
        }
    if (status) {
        tvu_clear(status);
        fault_raise(ERROR_TVU, status);
    }
    return !fault_pending();
}

void fault_trap(uint32_t cause, uint32_t address);
void fault_trap(uint32_t cause, uint32_t address)
{
    uart_text("\ntrap: cause ");
    uart_hex(cause);
    uart_text(" at ");
    uart_hex(address);
    uart_text("\n");
    link_release();
    link_error(ERROR_TRAP, cause << 24 | (address & 0xffffff));
}

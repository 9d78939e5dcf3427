// Instead of the firmware: for operations of 16 to 200 elements, keeps the TVU's queue full and
// counts sums that come out wrong right behind a division and an instruction that has to wait for a
// slot. Leaves (elements, wrong sums) in the mailbox.
#include <generated/tvu.h>

#define MAILBOX ((volatile uint32_t *)0x90000000)

void fault_trap(void);
int main(void);

void fault_trap(void) { MAILBOX[0] = 0xdead; }

int main(void) {
    volatile uint32_t *out = MAILBOX + 1;
    MAILBOX[0] = 0;
    tvu_reset();
    for (uint32_t n = 16; n < 208; n += 8) {
        uint32_t wrong = 0;
        for (uint32_t turn = 0; turn < 20; turn++) {
            uint32_t sum, quotient, before = 1000 * n + turn;
            for (uint32_t i = 0; i < 90; i++) tvu_mulv(0, 512, 0, 1025, n, 1);
            __asm__ volatile("divu %1, %2, %3\n\t.insn r 0x0b, 3, 7, x0, %4, x0\n\taddi %0, %5, 1"
                             : "=&r"(sum), "=&r"(quotient)
                             : "r"(~turn), "r"(3), "r"(0), "r"(before)
                             : "memory");
            wrong += sum != before + 1;
        }
        *out++ = n;
        *out++ = wrong;
    }
    while (tvu_status() >> 31);
    MAILBOX[0] = 0x600d;
    for (;;);
}

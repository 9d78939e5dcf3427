# Reset: stack, trap vector, .data, .bss, and the TVU's enable bit; then main.
    .section .init
    .globl _start
_start:
    la sp, _stack_top
    la t0, trap_entry
    csrw mtvec, t0
    la t0, _data_start
    la t1, _data_end
    la t2, _data_load
1:  bgeu t0, t1, 2f
    lw t3, 0(t2)
    sw t3, 0(t0)
    addi t0, t0, 4
    addi t2, t2, 4
    j 1b
2:  la t0, _bss_start
    la t1, _bss_end
3:  bgeu t0, t1, 4f
    sw zero, 0(t0)
    addi t0, t0, 4
    j 3b
4:  li t0, 0x80000000       # bit 31 of CSR 0xBC0 enables custom-0; interrupts stay off
    csrw 0xBC0, t0
    call main
5:  j 5b

# A trap is a bug: report it and stop, until the watchdog restarts the CPU. The stack is reset since
# it may be what broke.
    .align 2
trap_entry:
    la sp, _stack_top
    csrr a0, mcause
    csrr a1, mepc
    call fault_trap
6:  j 6b

// The boot ROM loads the stub to address 0 and jumps to it. It moves itself to where on-chip memory
// stays when the fabric starts (generated ps7_init.h maps the rest of it there), and goes on there.
    .syntax unified
    .arm
    .section .start, "ax"
    .global _start
_start:
    cpsid aif, #0x13
    mrc p15, 0, r0, c1, c0, 0
    bic r0, r0, #0x2000         // vectors where c12 says
    bic r0, r0, #0x1800         // no instruction cache, no branch prediction
    bic r0, r0, #0x0007         // no MMU, no alignment faults, no data cache
    mcr p15, 0, r0, c1, c0, 0
    mov r1, #0
    mcr p15, 0, r1, c7, c5, 0   // nothing stale in the caches of instructions and branches
    mcr p15, 0, r1, c7, c5, 6
    dsb
    isb
    adr r1, _start
    ldr r2, =_start
    ldr r3, =_load_end
move:
    cmp r2, r3
    ldrlo r4, [r1], #4
    strlo r4, [r2], #4
    blo move
    ldr r2, =_bss_start
    ldr r3, =_bss_end
    mov r4, #0
clear:
    cmp r2, r3
    strlo r4, [r2], #4
    blo clear
    ldr r2, =vectors
    mcr p15, 0, r2, c12, c0, 0
    orr r0, r0, #0x1000         // instructions are cached from here on
    dsb
    mcr p15, 0, r0, c1, c0, 0
    isb
    ldr sp, =_stack_top
    ldr pc, =main
    .ltorg

    .text
    .balign 32
vectors:
    b .                         // reset: never taken
    b undefined
    b .                         // supervisor call: none is made
    b prefetch
    b data
    b .
    b .                         // interrupts are off
    b .
undefined:
    mov r0, #0
    sub r1, lr, #4
    b reported
prefetch:
    mov r0, #1
    sub r1, lr, #4
    b reported
data:
    mov r0, #2
    sub r1, lr, #8
reported:
    ldr sp, =_stack_top
    b fault
    .ltorg

    // where the cores sleep
    .global park
park:
    dsb
    wfe
    b park

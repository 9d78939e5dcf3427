// Where QEMU starts the program: DDR, no caches, no MMU.
    .global _start
_start:
    ldr sp, =0x00300000
    bl main
stop:
    wfe
    b stop

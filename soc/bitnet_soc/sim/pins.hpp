// Connects a Verilated top's AXI pins, named PREFIXread0_araddr and so on, to the DDR model.
#pragma once

#include "ddr.hpp"

#define ATTACH_READ(ddr, top, prefix, n)                                                           \
    (ddr).attach(n,                                                                                \
                 AxiReadPins{&(top)->prefix##read##n##_araddr, &(top)->prefix##read##n##_arlen,    \
                             &(top)->prefix##read##n##_arvalid, &(top)->prefix##read##n##_arready, \
                             &(top)->prefix##read##n##_rdata, &(top)->prefix##read##n##_rresp,     \
                             &(top)->prefix##read##n##_rlast, &(top)->prefix##read##n##_rvalid,    \
                             &(top)->prefix##read##n##_rready})

// `name`: the prefix of the port, such as hp_write
#define ATTACH_WRITE(ddr, n, top, name)                                                        \
    (ddr).attach_write(                                                                        \
        n, AxiWritePins{&(top)->name##_awaddr, &(top)->name##_awvalid, &(top)->name##_awready, \
                        &(top)->name##_wdata, &(top)->name##_wstrb, &(top)->name##_wvalid,     \
                        &(top)->name##_wready, &(top)->name##_bresp, &(top)->name##_bvalid,    \
                        &(top)->name##_bready})

#define ATTACH_ALL(ddr, top, prefix)              \
    do {                                          \
        ATTACH_READ(ddr, top, prefix, 0);         \
        ATTACH_READ(ddr, top, prefix, 1);         \
        ATTACH_READ(ddr, top, prefix, 2);         \
        ATTACH_READ(ddr, top, prefix, 3);         \
        ATTACH_WRITE(ddr, 0, top, prefix##write); \
    } while (0)

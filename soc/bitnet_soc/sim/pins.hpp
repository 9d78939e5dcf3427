// Connects a Verilated top's AXI pins, named PREFIXread0_araddr and so on, to the DDR model.
#pragma once

#include "ddr.hpp"

#define ATTACH_READ(ddr, top, prefix, n)                                                                               \
    (ddr).attach(n, AxiReadPins{&(top)->prefix##read##n##_araddr, &(top)->prefix##read##n##_arlen,                     \
                                &(top)->prefix##read##n##_arvalid, &(top)->prefix##read##n##_arready,                 \
                                &(top)->prefix##read##n##_rdata, &(top)->prefix##read##n##_rresp,                     \
                                &(top)->prefix##read##n##_rlast, &(top)->prefix##read##n##_rvalid,                    \
                                &(top)->prefix##read##n##_rready})

#define ATTACH_WRITE(ddr, top, prefix)                                                                                 \
    (ddr).attach(AxiWritePins{&(top)->prefix##write_awaddr, &(top)->prefix##write_awvalid,                             \
                              &(top)->prefix##write_awready, &(top)->prefix##write_wdata, &(top)->prefix##write_wstrb, \
                              &(top)->prefix##write_wvalid, &(top)->prefix##write_wready, &(top)->prefix##write_bresp, \
                              &(top)->prefix##write_bvalid, &(top)->prefix##write_bready})

#define ATTACH_ALL(ddr, top, prefix)                                                                                   \
    do {                                                                                                               \
        ATTACH_READ(ddr, top, prefix, 0);                                                                              \
        ATTACH_READ(ddr, top, prefix, 1);                                                                              \
        ATTACH_READ(ddr, top, prefix, 2);                                                                              \
        ATTACH_READ(ddr, top, prefix, 3);                                                                              \
        ATTACH_WRITE(ddr, top, prefix);                                                                                \
    } while (0)

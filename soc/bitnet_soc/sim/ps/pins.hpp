// The ports of the primitive PS7, which stand at the SoC's top level: the memory ports for the DDR
// model, the general-purpose ports for GpPort, and what all of them are tied to.
#pragma once

#include "../ddr.hpp"
#include "gp_port.hpp"

#define HP_READ(top, n)                                                     \
    AxiReadPins {                                                           \
        &(top)->ps7_saxihp##n##araddr, &(top)->ps7_saxihp##n##arlen,        \
            &(top)->ps7_saxihp##n##arvalid, &(top)->ps7_saxihp##n##arready, \
            &(top)->ps7_saxihp##n##rdata, &(top)->ps7_saxihp##n##rresp,     \
            &(top)->ps7_saxihp##n##rlast, &(top)->ps7_saxihp##n##rvalid,    \
            &(top)->ps7_saxihp##n##rready                                   \
    }

#define HP_WRITE(top, n)                                                  \
    AxiWritePins {                                                        \
        &(top)->ps7_saxihp##n##awaddr, &(top)->ps7_saxihp##n##awvalid,    \
            &(top)->ps7_saxihp##n##awready, &(top)->ps7_saxihp##n##wdata, \
            &(top)->ps7_saxihp##n##wstrb, &(top)->ps7_saxihp##n##wvalid,  \
            &(top)->ps7_saxihp##n##wready, &(top)->ps7_saxihp##n##bresp,  \
            &(top)->ps7_saxihp##n##bvalid, &(top)->ps7_saxihp##n##bready  \
    }

#define GP_PINS(top, n)                                                     \
    GpPins {                                                                \
        &(top)->ps7_saxigp##n##araddr, &(top)->ps7_saxigp##n##arlen,        \
            &(top)->ps7_saxigp##n##arvalid, &(top)->ps7_saxigp##n##arready, \
            &(top)->ps7_saxigp##n##rdata, &(top)->ps7_saxigp##n##rresp,     \
            &(top)->ps7_saxigp##n##rlast, &(top)->ps7_saxigp##n##rvalid,    \
            &(top)->ps7_saxigp##n##rready, &(top)->ps7_saxigp##n##awaddr,   \
            &(top)->ps7_saxigp##n##awlen, &(top)->ps7_saxigp##n##awvalid,   \
            &(top)->ps7_saxigp##n##awready, &(top)->ps7_saxigp##n##wdata,   \
            &(top)->ps7_saxigp##n##wstrb, &(top)->ps7_saxigp##n##wlast,     \
            &(top)->ps7_saxigp##n##wvalid, &(top)->ps7_saxigp##n##wready,   \
            &(top)->ps7_saxigp##n##bresp, &(top)->ps7_saxigp##n##bvalid,    \
            &(top)->ps7_saxigp##n##bready                                   \
    }

// Whether an AXI3 port's inputs that never change are right: INCR, no locks, secure, one ID that
// is that of the data as well, words of 2^size bytes.
#define IS_TIED(top, port, size)                                                               \
    ((top)->ps7_##port##arburst == 1 && (top)->ps7_##port##awburst == 1 &&                     \
     (top)->ps7_##port##arsize == (size) && (top)->ps7_##port##awsize == (size) &&             \
     !(top)->ps7_##port##arlock && !(top)->ps7_##port##awlock && !(top)->ps7_##port##arprot && \
     !(top)->ps7_##port##awprot && !(top)->ps7_##port##arqos && !(top)->ps7_##port##awqos &&   \
     (top)->ps7_##port##awid == (top)->ps7_##port##wid && !(top)->ps7_##port##arid)

// And of a memory port: writes of one beat, as many commands in flight as there can be.
#define IS_MEMORY_TIED(top, n)                                                                    \
    (IS_TIED(top, saxihp##n, 3) && (top)->ps7_saxihp##n##wlast && !(top)->ps7_saxihp##n##awlen && \
     !(top)->ps7_saxihp##n##rdissuecap1en && !(top)->ps7_saxihp##n##wrissuecap1en)

// What the simulation takes for a DSP48E1: the adder with registered operands that dsp.py asks for,
// and nothing else.
// tests/gateware/test_dsp.py holds it against the model that Yosys ships.
module DSP48E1 #(
    parameter ACASCREG = 1, ADREG = 1, ALUMODEREG = 1, AREG = 1, BCASCREG = 1, BREG = 1,
    parameter CARRYINREG = 1, CARRYINSELREG = 1, CREG = 1, DREG = 1, INMODEREG = 1, MREG = 1,
    parameter OPMODEREG = 1, PREG = 1, USE_MULT = "MULTIPLY", USE_SIMD = "ONE48"
) (
    input CLK, input [29:0] A, input [17:0] B, input [47:0] C, input [47:0] PCIN,
    input [6:0] OPMODE, input [3:0] ALUMODE,
    output [47:0] P, output [47:0] PCOUT,
    input CEA1, CEA2, CEAD, CEALUMODE, CEB1, CEB2, CEC, CECARRYIN, CECTRL, CED, CEINMODE, CEM, CEP,
    input RSTA, RSTALLCARRYIN, RSTALUMODE, RSTB, RSTC, RSTCTRL, RSTD, RSTINMODE, RSTM, RSTP,
    input CARRYIN, CARRYCASCIN, MULTSIGNIN, input [2:0] CARRYINSEL, input [4:0] INMODE,
    input [24:0] D, input [29:0] ACIN,
    input [17:0] BCIN
);
    reg [47:0] x = 0, c = 0, p = 0;
    reg subtract = 0;
    reg [1:0] z = 0;
    wire [47:0] chosen = (z[0] ? (z[1] ? c : PCIN) : 48'd0);
    always @(posedge CLK) begin
        x <= OPMODE[0] ? {A, B} : 48'd0;
        c <= C;
        subtract <= ALUMODE[0];
        z <= OPMODE[5:4];
        p <= subtract ? chosen - x : chosen + x;
    end
    assign P = p, PCOUT = p;
endmodule

#include "fabric.hpp"

#include "pins.hpp"

#include <cstring>

void MainRam::sample() {
    request_ = top_->ddr_cyc && top_->ddr_stb;
    acked_ = top_->ddr_ack;
    address_ = static_cast<uint64_t>(top_->ddr_adr) << 2;
    write_ = top_->ddr_we;
    data_ = top_->ddr_dat_w;
    select_ = top_->ddr_sel;
    burst_ = top_->ddr_cti == 2;
}

void MainRam::drive() {
    top_->ddr_ack = 0;
    if (!request_) {
        wait_ = -1;
        return;
    }
    uint64_t next = address_;
    bool answer = false;
    if (acked_) {
        wait_ = -1;
        if (burst_) {
            next += 4;
            answer = true;
        }
    } else {
        if (wait_ < 0) wait_ = ddr_.access(address_, write_ ? 1 : 4, write_);
        answer = wait_-- == 0;
    }
    if (!answer || stalled) return;
    next &= ddr_.size() - 4;
    top_->ddr_ack = 1;
    if (write_)
        ddr_.write_word(next, data_, select_);
    else
        top_->ddr_dat_r = ddr_.read_word(next);
}

Fabric::Fabric(Vsoc *top, Ddr &ddr, int udp_port, int tcp_port, bool, uint32_t)
    : serial(tcp_port), network(udp_port), top_(top), ram_(top, ddr) {
    ATTACH_ALL(ddr, top, hp_);
    ATTACH_WRITE(ddr, 1, top, hp_upload);
    top->serial_source_ready = 1;
    top->eth_source_ready = 1;
}

bool Fabric::obey(const char *command) {
    if (strncmp(command, "stall ", 6)) return false;
    ram_.stalled = command[6] == '1';
    return true;
}

void Fabric::sample() {
    ram_.sample();
    serial_out_ = top_->serial_source_valid;
    serial_taken_ = top_->serial_sink_valid && top_->serial_sink_ready;
    serial_byte_ = top_->serial_source_data;
    eth_out_ = top_->eth_source_valid;
    eth_last_ = top_->eth_source_last;
    eth_byte_ = top_->eth_source_data;
}

void Fabric::drive(bool quiet) {
    ram_.drive();
    serial.set_tuning_word(top_->serial_tuning_word);
    if (serial_out_) serial.from_soc(serial_byte_);
    if (serial_taken_) serial.to_soc_pop();
    top_->serial_sink_valid = serial.to_soc_pending();
    if (top_->serial_sink_valid) top_->serial_sink_data = serial.to_soc_front();

    if (eth_out_) network.from_soc(eth_byte_, eth_last_);
    top_->eth_sink_valid = !quiet && network.next(top_->eth_sink_data);
    top_->eth_sink_last = network.last();
    top_->eth_sink_error = network.damaged();
}

void Fabric::poll() {
    serial.poll();
    network.poll();
}

void Fabric::reset() {
    network.reset();
    top_->serial_sink_valid = 0;
}

#include "gp_port.hpp"

#include <cstdio>
#include <cstdlib>

void GpPort::violation(const char *rule) {
    fprintf(stderr, "AXI3 violation on %s, addresses 0x%x (read) and 0x%x (write): %s\n", name_,
            read_.address, write_.address, rule);
    exit(3);
}

bool GpPort::moves() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 17;
    random_ ^= random_ << 5;
    return !stalled && static_cast<int>(random_ & 15) >= gaps_;
}

void GpPort::check_stable(Held &channel, bool valid, bool ready, uint64_t payload) {
    if (channel.held && (!valid || payload != channel.payload))
        violation("VALID fell or what stood beside it changed before READY");
    channel = {valid && !ready, payload};
}

void GpPort::begin(Transaction &what, uint32_t address, int beats, bool write) {
    what = Transaction{};
    what.active = true;
    what.address = address;
    what.beats = beats;
    what.wait = target_.latency(address, beats, write) + (gaps_ ? random_ % SPREAD : 0);
    if (address % 4) violation("an address is not aligned to the word");
    if ((address & 0xFFF) + 4u * beats > 0x1000) violation("a burst crosses a 4 KB boundary");
    if (beats > 1 && !target_.is_memory(address)) violation("a burst to a register");
}

void GpPort::sample() {
    GpPins &p = pins_;
    check_stable(ar_, *p.arvalid, *p.arready, static_cast<uint64_t>(*p.arlen) << 32 | *p.araddr);
    check_stable(aw_, *p.awvalid, *p.awready, static_cast<uint64_t>(*p.awlen) << 32 | *p.awaddr);
    check_stable(w_, *p.wvalid, *p.wready,
                 static_cast<uint64_t>(*p.wstrb | *p.wlast << 4) << 32 | *p.wdata);
    if (*p.rvalid && *p.rready) {
        fetched_ = shown_ = false;
        read_.active = ++read_.done < read_.beats;
    }
    if (*p.bvalid && *p.bready) write_.active = false;
    if (*p.arvalid && *p.arready) begin(read_, *p.araddr, *p.arlen + 1, false);
    if (*p.awvalid && *p.awready) begin(write_, *p.awaddr, *p.awlen + 1, true);
    if (*p.wvalid && *p.wready) {
        uint32_t address = write_.address + 4 * write_.done++;
        if (*p.wlast != (write_.done == write_.beats)) violation("WLAST is not at the last word");
        // what ends a transaction of somebody who is gone writes nothing
        if (*p.wstrb && *p.wstrb != 15 && !target_.is_memory(address))
            violation("part of a register is written");
        GpTarget::Answer answer =
            *p.wstrb ? target_.write(address, *p.wdata, *p.wstrb) : GpTarget::OKAY;
        write_.never |= answer == GpTarget::NEVER;
        write_.failed |= answer != GpTarget::OKAY;
    }
}

void GpPort::drive() {
    GpPins &p = pins_;
    *p.arready = !read_.active && moves();
    *p.awready = !write_.active && moves();
    *p.wready = write_.active && write_.done < write_.beats && moves();

    if (read_.active && read_.wait > 0) read_.wait--;
    if (read_.active && !read_.wait && !fetched_ && !read_.never) {
        answer_ = target_.read(read_.address + 4 * read_.done, word_);
        read_.never = answer_ == GpTarget::NEVER;
        fetched_ = !read_.never;
    }
    shown_ = fetched_ && (shown_ || moves());
    *p.rvalid = shown_;
    if (shown_) {
        *p.rdata = answer_ == GpTarget::OKAY ? word_ : 0xBADDBADD;
        *p.rresp = answer_;
        *p.rlast = read_.done == read_.beats - 1;
    }

    bool written = write_.active && write_.done == write_.beats && !write_.never;
    if (written && write_.wait > 0) write_.wait--;
    *p.bvalid = written && !write_.wait && (*p.bvalid || moves());
    *p.bresp = write_.failed ? GpTarget::SLVERR : GpTarget::OKAY;
}

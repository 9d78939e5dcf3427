"""Who holds the board: one host, which says so with every request, until it leaves, falls silent,
or is taken over."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import enum, memory, wiring
from amaranth.lib.wiring import In, Out
from xtvu.datagram import RECENT_WORDS, SILENCE, SOURCES, STATE

__all__ = ["Claim", "Holder", "Host", "Requests", "Source"]


class Source(enum.Enum, shape=2):
    """Where the holder comes from (``xtvu.datagram.SOURCES``)."""

    NONE = SOURCES["none"]
    NETWORK = SOURCES["network"]
    UART = SOURCES["uart"]


class Host(wiring.Signature):
    """Who sends a request, seen by what handles it: ``ip`` and ``port`` as they lie in the frame,
    and ``token``; stable, as is the sequence number, from a cycle before anything is asked."""

    def __init__(self) -> None:
        super().__init__({"ip": Out(32), "port": Out(16), "token": Out(32)})


class Requests(wiring.Signature):
    """What is asked of the claim, in pulses while it is ``ready``. ``claim``, with ``take_over`` if
    need be, is ``granted`` or not; ``enter``: the same for Etherbone, which has no token;
    ``touch``: the holder was heard; ``leave``: it goes. ``done``: the request ``sequence`` is the
    last that may be done only once, and ended with ``status``; ``arrived``: it is DATA. ``recent``
    is the ``index``-th last of those. ``holder``: the host is it."""

    def __init__(self) -> None:
        super().__init__({
            "host": Out(Host()),
            "claim": Out(1), "take_over": Out(1), "enter": Out(1), "touch": Out(1), "leave": Out(1),
            "done": Out(1),
            "arrived": Out(1),
            "sequence": Out(32), "status": Out(8), "index": Out(range(RECENT_WORDS)),
            "ready": In(1),
            "granted": In(1),
            "holder": In(1), "free": In(1), "last": In(32), "last_status": In(8), "recent": In(32),
        })


class Holder(wiring.Signature):
    """For whoever shows it: the words of STATE, but for the counts of frames."""

    def __init__(self) -> None:
        widths = {"source": 2, "ip": 32, "port": 16, "seconds_held": 16, "seconds_silent": 8,
                  "claims": 16}
        assert tuple(widths) == STATE[:len(widths)]
        super().__init__({name: Out(width) for name, width in widths.items()})


class Claim(wiring.Component):
    """Members: ``network``: requests of the engine, done when ``ready``; ``state``; ``second`` in
    cycles. The firmware asks for who is at the UART: ``uart_claim`` with ``uart_token``,
    ``uart_take_over``, which is also how it says that it heard the holder; ``uart_leave``.
    """

    def __init__(self) -> None:
        super().__init__({
            "network": In(Requests()), "state": Out(Holder()), "second": In(32),
            "uart_claim": In(1), "uart_token": In(32), "uart_take_over": In(1), "uart_leave": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        network, state, host = self.network, self.state, self.network.host
        # the token of whoever holds the board, or held it last; 0 after a reset
        token, uart_granted = Signal(32), Signal()
        before, before_last = Signal(32), Signal(32)  # the one before, and its last request
        old = Signal()  # a request of such a one from before it left
        by_network, same_ip, same_token = Signal(), Signal(), Signal()
        # Comparisons take a cycle: the host stands there long before it asks for anything.
        equal = {name: Signal(name=f"equal_{name}") for name in ("ip", "port", "token", "before")}
        named, earlier, earlier_before, settling = Signal(), Signal(), Signal(), Signal()
        m.d.sync += [
            equal["ip"].eq(host.ip == state.ip), equal["port"].eq(host.port == state.port),
            equal["token"].eq(host.token == token),
            equal["before"].eq(host.token == before), named.eq(token != 0),
            settling.eq(self.uart_claim | self.uart_leave),
            earlier.eq((network.sequence - network.last)[31]),
            earlier_before.eq((network.sequence - before_last)[31]),
        ]
        m.d.comb += [
            by_network.eq(state.source == Source.NETWORK),
            network.free.eq(state.source == Source.NONE),
            same_ip.eq(by_network & equal["ip"]), same_token.eq(equal["token"] & named),
            network.holder.eq(same_ip & same_token & equal["port"]),
            # Etherbone, which has no token, gives way to a host of the same address that has one
            old.eq((equal["token"] & earlier) | (equal["before"] & earlier_before)),
            network.granted.eq(network.ready & ~(network.claim & old) & Mux(
                network.enter, network.free | same_ip,
                (host.token != 0)
                & (network.free | network.take_over | same_token | same_ip & ~named))),
            network.ready.eq(~self.uart_claim & ~self.uart_leave & ~settling),
            uart_granted.eq((state.source == Source.NONE) | self.uart_take_over
                            | (state.source == Source.UART) & (self.uart_token == token)),
        ]
        self._count_seconds(m)

        def changed(new: Value) -> None:
            """Another holder, or the same anew. After a reset the count of claims starts anywhere,
            so that nobody finds it as it was."""
            m.d.sync += [token.eq(new), state.seconds_held.eq(0),
                         state.claims.eq(Mux(token == 0, new[:16], state.claims + 1))]
            with m.If(new != token):
                m.d.sync += [before.eq(token), before_last.eq(network.last)]

        with m.If(self.uart_leave):
            with m.If(state.source == Source.UART):
                m.d.sync += state.source.eq(Source.NONE)
        with m.Elif(self.uart_claim):
            with m.If(uart_granted):
                m.d.sync += [state.source.eq(Source.UART), state.seconds_silent.eq(0)]
                with m.If((state.source != Source.UART) | (self.uart_token != token)):
                    changed(self.uart_token)
                    m.d.sync += [state.ip.eq(0), state.port.eq(0)]
        with m.Elif(network.leave):
            m.d.sync += [state.source.eq(Source.NONE), network.last.eq(network.sequence)]
        with m.Elif(network.touch):
            m.d.sync += state.seconds_silent.eq(0)
        with m.Elif((network.claim | network.enter) & network.granted):
            with m.If(network.claim | network.free):
                m.d.sync += [state.source.eq(Source.NETWORK), state.ip.eq(host.ip),
                             state.port.eq(host.port)]
            m.d.sync += state.seconds_silent.eq(0)
            with m.If(network.free | ~same_token & network.claim):
                changed(host.token)
                m.d.sync += network.last.eq(network.sequence)
        self._remember(m)
        return m

    def _count_seconds(self, m: Module) -> None:
        """Before everything else that changes the same registers, which then goes first."""
        state, cycles = self.state, Signal(32)
        with m.If(cycles >= self.second):
            m.d.sync += [cycles.eq(0),
                         state.seconds_held.eq(Mux(state.seconds_held.all(), state.seconds_held,
                                                   state.seconds_held + 1)),
                         state.seconds_silent.eq(state.seconds_silent + 1)]
            with m.If(state.seconds_silent >= SILENCE - 1):
                m.d.sync += state.source.eq(Source.NONE)
        with m.Else():
            m.d.sync += cycles.eq(cycles + 1)

    def _remember(self, m: Module) -> None:
        """Requests that were done, and DATA that arrived."""
        network, newest = self.network, Signal(range(RECENT_WORDS))
        m.submodules.recent = recent = memory.Memory(shape=32, depth=RECENT_WORDS, init=[])
        write, read = recent.write_port(), recent.read_port(domain="comb")
        m.d.comb += [write.addr.eq(newest + 1), write.data.eq(network.sequence),
                     write.en.eq(network.arrived),
                     read.addr.eq(newest - network.index), network.recent.eq(read.data)]
        m.d.sync += newest.eq(newest + network.arrived)
        with m.If(network.done):
            m.d.sync += [network.last.eq(network.sequence), network.last_status.eq(network.status)]

"""The boot stub (boot/) in QEMU, from BOOT.BIN on: QEMU's SD controller, UART, timer and system
control registers are not ours; cards are formatted by Debian's tools."""

from __future__ import annotations

import json
import random
import subprocess
import zlib

import pytest
from bitnet_host.model.image import FILE_HEAD, file_head, json_part
from bitnet_soc import boards, boot
from bitnet_soc.ps7.emit import json_text
from bitnet_soc.ps7.sequence import start
from boot_board import BOARD, Card, Hardware, bit_file, boot_stub, build_stub

_MODEL_BASE = 0x20_0000
_UART, _SECOND_CORE = 0xE000_1000, 0xFFFF_FFF0
_rng = random.Random(12)
_WORDS = _rng.randbytes(4 * 9001)
_DDR = _rng.randbytes(512 * 4099)


def _swapped(data: bytes) -> bytes:
    return b"".join(data[i:i + 4][::-1] for i in range(0, len(data), 4))


def _model(ddr: bytes = _DDR) -> bytes:
    text = json_part({"name": "of a test"})
    return file_head(text, len(ddr), zlib.crc32(ddr)) + text + ddr


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    return build_stub(tmp_path_factory.mktemp("stub") / "build")


@pytest.fixture
def attempt(stub, tmp_path):
    """Runs the stub with files on its card, None for an empty slot: what it said, and the
    hardware."""
    def run(files, card_options=None, hardware=None, **options):
        hardware = hardware or Hardware(_swapped(_WORDS))
        card = None if files is None else Card(tmp_path / "card", files, **(card_options or {}))
        with boot_stub(tmp_path, stub, card, hardware, **options) as done:
            return done.said, hardware
    return run


def test_boot_bin_is_what_mkimage_makes(stub, tmp_path):
    """Only the size differs, in which mkimage counts its header, too."""
    made, theirs = (stub / "BOOT.BIN").read_bytes(), tmp_path / "boot.bin"
    code = made[0x8C0:]
    (tmp_path / "code").write_bytes(code)
    subprocess.run(["mkimage", "-T", "zynqimage", "-A", "arm", "-e", "0", "-d", tmp_path / "code",
                    theirs], check=True, capture_output=True)
    differ = {i // 4 * 4 for i, (a, b) in enumerate(zip(made, theirs.read_bytes(), strict=True))
              if a != b}
    assert differ <= {0x34, 0x40, 0x48}
    told = subprocess.run(["mkimage", "-l", stub / "BOOT.BIN"], check=True, capture_output=True,
                          text=True).stdout  # it verifies the checksum
    assert f"Image Size   : {len(code)} bytes ({len(code)} bytes packed)" in told
    assert len(code) % 64 == 0 and code.startswith((stub / "stub.bin").read_bytes())
    with pytest.raises(ValueError, match="the boot ROM loads"):
        boot.boot_bin(bytes(boot.MOST_BYTES + 1))


@pytest.mark.parametrize("card", [{}, {"partitioned": False}, {"scattered": True},
                                  {"kind": "16"}, {"megabytes": 4096}],
                         ids=["plain", "no partition", "scattered", "FAT16", "high capacity"])
def test_a_board_starts(stub, tmp_path, card):
    """The bitstream reaches the fabric, the model its place, and the rest is as it should be."""
    hardware = Hardware(_swapped(_WORDS))
    files = {"BITNET.BIT": bit_file(_WORDS), "MODEL.IMG": _model()}
    with boot_stub(tmp_path, stub, Card(tmp_path / "card", files, **card), hardware) as done:
        said, debugger = done.said, done.debugger
        assert f"boot stub for {BOARD.title}\n" in said
        assert "\rMODEL.IMG: 2 of 2 MB\n" in said and said.endswith("starting the fabric\n")
        assert bytes(hardware.taken) == _swapped(_WORDS)
        assert hardware.erased == 1 and hardware.isolated
        assert debugger.read(_MODEL_BASE, len(_DDR)) == _DDR
        assert debugger.read(_MODEL_BASE + len(_DDR), 512) == bytes(512)
        # both cores sleep where the boot ROM and the rings of Ethernet frames have nothing
        assert 0xFFFF_0000 <= done.symbols["park"] < 0xFFFF_FE00
        assert debugger.word(_SECOND_CORE) == done.symbols["park"]


def _differing(written, steps):
    """Steps that were not carried out, in order."""
    wanted = [step for phase in steps for step in phase if step[0] in ("write", "maskwrite")]
    assert len(written) == len(wanted)
    found, kept = [], {}
    for (address, value), (kind, at, *rest) in zip(written, wanted, strict=True):
        mask = int(rest[0], 16) if kind == "maskwrite" else 0xFFFF_FFFF
        if 0xF800_6000 <= address < 0xF800_7000:  # the stand-in knows what was there
            before = kept.get(address, 0xA5A5_A5A5)
            assert value & ~mask == before & ~mask, f"{address:08X}"
            kept[address] = value
        if address != int(at, 16) or value & mask != int(rest[-1], 16):
            found.append((kind, at, *rest, f"{address:08X} {value:08X}"))
    return found


def test_it_writes_what_the_list_says(attempt):
    """The start before the DRAM is used, the rest once the fabric is loaded; nothing else."""
    _, hardware = attempt({"BITNET.BIT": bit_file(_WORDS)})
    written = [(address, value) for address, value in hardware.written
               if address != _UART + 0x30]
    phases = json.loads(json_text(start(BOARD), BOARD.title))
    first = next(i for i, (address, _) in enumerate(written) if address < 0x4000_0000)
    last = max(i for i, (address, _) in enumerate(written) if address & ~0xFF == 0xF800_7000)
    before = [phases[name] for name in phases if name != "post_config"]
    assert _differing(written[:first], before) == []
    assert _differing(written[last + 1:], [phases["post_config"]]) == []


def test_bitstreams_of_any_length_and_head(attempt):
    """So that words begin at every byte of a block of the card, and in every piece of the file."""
    for words, design in ((1, b"x"), (2048, b"ab"), (70001, b"abc"), (65537, b"x" * 300)):
        data = _rng.randbytes(4 * words)
        hardware = Hardware(_swapped(data))
        said, _ = attempt({"BITNET.BIT": bit_file(data, b"xc7z020clg484-1", design)},
                          hardware=hardware)
        assert said.endswith("starting the fabric\n") and bytes(hardware.taken) == _swapped(data)


def test_a_card_without_a_model(attempt):
    said, hardware = attempt({"BITNET.BIT": bit_file(_WORDS)})
    assert "without MODEL.IMG; bitnet-host uploads a model\n" in said
    assert hardware.erased and said.endswith("starting the fabric\n")


_GOOD = bit_file(_WORDS)
_WAITING = "waiting for a bitstream over JTAG"
_NO_BITSTREAM = "BITNET.BIT is not a bitstream: copy the .bit file that the tool wrote"


@pytest.mark.parametrize(("files", "sentence"), [
    (None, "no SD card answers: put in the one with BOOT.BIN and BITNET.BIT"),
    ({}, "BITNET.BIT is not on the SD card: copy it there"),
    ({"BITNET.BIT": _GOOD[:-4]}, "BITNET.BIT is not whole: copy it again"),
    ({"BITNET.BIT": _GOOD + b"x"}, "BITNET.BIT is not whole: copy it again"),
    ({"BITNET.BIT": b""}, _NO_BITSTREAM), ({"BITNET.BIT": _WORDS}, _NO_BITSTREAM),
    ({"BITNET.BIT": _GOOD[:20]}, _NO_BITSTREAM),
    ({"BITNET.BIT": bit_file(_WORDS, b"7z010clg400")},
     "BITNET.BIT is for another chip: this board has an xc7z020"),
], ids=["no card", "no file", "cut", "too long", "empty", "noise", "cut in its head", "7z010"])
def test_what_is_wrong_with_the_card_is_said(attempt, files, sentence):
    """In one sentence; a card without a model is not spoken of, too. The fabric is left to whoever
    has a cable."""
    said, hardware = attempt(files)
    lines = said.replace("without MODEL.IMG; bitnet-host uploads a model\n", "").splitlines()
    assert lines[1:] == [f"bitnet-zynq boot stub for {BOARD.title}", sentence, _WAITING]
    assert not hardware.taken and hardware.waits and hardware.is_isolated()


def test_a_fabric_that_somebody_loads_over_jtag(attempt):
    """As by openFPGALoader, which cannot start the processing system. The model may be on the card
    all the same."""
    said, hardware = attempt({"MODEL.IMG": _model()}, hardware=Hardware(by_cable=True))
    assert f"MODEL.IMG: 2 of 2 MB\n{_WAITING}\nstarting the fabric\n" in said
    assert hardware.erased == 1 and hardware.isolated and not hardware.taken
    assert hardware.written[-2] == (0xF800_0240, 0)


def test_a_card_that_is_not_formatted(stub, tmp_path):
    card = Card(tmp_path / "card", {})
    card.path.write_bytes(bytes(64 << 20))
    with boot_stub(tmp_path, stub, card, Hardware()) as done:
        assert done.said.endswith("the SD card has no FAT file system that can be read: format it "
                                  f"with FAT32, not exFAT\n{_WAITING}\n")


_CUT = "MODEL.IMG is not whole: copy it again"
_NONE = "MODEL.IMG is not a model image: make one with `bitnet-host convert`"
_OTHER = "MODEL.IMG is of another version of bitnet-host: convert the model again"


def _unaligned() -> bytes:
    text = b'{"a": 1}'
    return file_head(text, len(_DDR), 0) + text + _DDR


def _other_version() -> bytes:
    text = json_part({})
    values = list(FILE_HEAD.unpack(file_head(text, len(_DDR), 0)))
    values[1] += 1
    values[6] = 0
    values[6] = zlib.crc32(FILE_HEAD.pack(*values))
    return FILE_HEAD.pack(*values) + text + _DDR


@pytest.mark.parametrize(("model", "sentence"), [
    (_model()[:-1], _CUT), (_model() + b"x", _CUT), (_model()[:300], _CUT), (b"", _NONE),
    (b"BITNETFW", _NONE), (b"x" + _model()[1:], _NONE),
    (_model()[:20] + b"x" + _model()[21:], _NONE), (_unaligned(), _OTHER),
    (_other_version(), _OTHER),
], ids=["cut", "too long", "hardly begun", "empty", "only a name", "no image", "damaged head",
        "unaligned", "version"])
def test_a_model_that_cannot_be_used(attempt, model, sentence):
    """It is said, nothing of it gets into memory, and the board starts without it."""
    said, _ = attempt({"BITNET.BIT": bit_file(_WORDS), "MODEL.IMG": model})
    assert said.endswith(f"{BOARD.title}\n{sentence}\nstarting the fabric\n")


def _commands(hardware):
    return [value >> 24 for address, value in hardware.written if address == 0xE010_000C]


@pytest.mark.parametrize("errors", [1, 2])
def test_a_read_that_fails_is_tried_again(stub, tmp_path, errors):
    """The card is told to stop, which the controller does only after what went well; the last try
    is at half the clock."""
    files = {"BITNET.BIT": bit_file(_WORDS), "MODEL.IMG": _model()}
    hardware = Hardware(_swapped(_WORDS), card_errors=errors)
    with boot_stub(tmp_path, stub, Card(tmp_path / "card", files), hardware) as done:
        assert done.said.endswith("MODEL.IMG: 2 of 2 MB\nstarting the fabric\n")
        assert done.debugger.read(_MODEL_BASE, len(_DDR)) == _DDR
    commands = _commands(hardware)
    assert commands.count(12) == errors
    assert all(commands[i - 1] == commands[i + 1] == 18
               for i, command in enumerate(commands) if command == 12)
    clocks = [value >> 8 & 0xFF for address, value in hardware.written
              if address == 0xE010_002C and value & 5 == 1 and not value >> 24]
    assert clocks == [0x40, 0x01, 0x00] + [0x01] * (errors == 2)


def test_a_card_that_cannot_be_read(attempt):
    """The sentence stands on a line of its own, and the board starts without the model."""
    files = {"BITNET.BIT": bit_file(_WORDS), "MODEL.IMG": _model()}
    said, _ = attempt(files, hardware=Hardware(_swapped(_WORDS), card_errors=3))
    assert ("MODEL.IMG: 0 of 2 MB\nMODEL.IMG cannot be read to its end: the card or its file "
            "system is damaged\nstarting the fabric\n") in said
    said, _ = attempt(files, hardware=Hardware(_swapped(_WORDS), card_errors=10000))
    assert said.endswith(f"BITNET.BIT cannot be read to its end: the card or its file system is "
                         f"damaged\n{_WAITING}\n")


def test_a_model_too_large_for_the_board(tmp_path):
    stub = build_stub(tmp_path / "small", 4 << 20)
    card = Card(tmp_path / "card", {"BITNET.BIT": bit_file(_WORDS), "MODEL.IMG": _model()})
    with boot_stub(tmp_path, stub, card, Hardware(_swapped(_WORDS))) as done:
        assert done.said.endswith("MODEL.IMG is larger than this board's memory: convert a smaller "
                                  "model\nstarting the fabric\n")


def test_a_fabric_that_does_not_take_it(attempt):
    said, hardware = attempt({"BITNET.BIT": bit_file(_WORDS)}, hardware=Hardware(b"something else"))
    assert said.endswith("BITNET.BIT was not taken: it is damaged, or for another chip\n"
                         f"{_WAITING}\n")
    said, _ = attempt({"BITNET.BIT": bit_file(_WORDS)}, hardware=Hardware(power=False))
    assert said.endswith(f"the fabric cannot be erased: is it supplied with power?\n{_WAITING}\n")
    assert (0xF800_0240, 0) not in hardware.written


def test_a_board_that_does_not_come_up(attempt):
    said, _ = attempt({}, hardware=Hardware(dram=False))
    assert said.endswith("the DRAM does not train; does the board file fit this board: register "
                         "F8006054 never said that it is ready\n")
    said, _ = attempt({}, hardware=Hardware(plls=False))
    assert said.endswith("a PLL does not lock; is the board's crystal the one in its board file: "
                         "register F800010C never said that it is ready\n")
    said, _ = attempt({}, megabytes=512)  # half of what the board file says
    assert "the DRAM does not hold what was written: 00000000 instead of 2000" in said


@pytest.mark.parametrize("line", [2, 3, 12, 20, 21, 28, 29])
@pytest.mark.parametrize("high", [False, True])
def test_an_address_line_that_is_stuck(attempt, line, high):
    """For what is written and for what is read."""
    said, _ = attempt({}, hardware=Hardware(
        wires=lambda address: address & ~(1 << line) | high << line))
    assert "the DRAM does not hold what was written: " in said


@pytest.mark.parametrize("bits", [lambda word: word | 1 << 13, lambda word: word & ~(1 << 31),
                                  lambda word: word | word >> 1 & 1 << 5])
def test_a_data_line_that_is_stuck(attempt, bits):
    said, _ = attempt({}, hardware=Hardware(bits=bits))
    assert "the DRAM does not hold what was written: " in said and "at 0020" in said


def test_the_clock_of_the_card(attempt):
    """From 50 MHz: below 400 kHz to begin with, 25 MHz, and 50 once the card has agreed."""
    _, hardware = attempt({"BITNET.BIT": bit_file(_WORDS)})
    clocks = [value for address, value in hardware.written
              if address == 0xE010_002C and value & 5 == 1 and not value >> 24]
    assert [value >> 8 & 0xFF for value in clocks] == [0x40, 0x01, 0x00]
    modes = [value for address, value in hardware.written if address == 0xE010_0028]
    assert [value & 0x16 for value in modes] == [0x10, 0x12, 0x16]  # DMA, 4 bits, high speed


def test_a_crash_says_where(attempt):
    def break_it(debugger, symbols):
        debugger.write_word(symbols["card_open"], 0xE7F0_00F0)  # undefined for ever
        assert debugger.word(symbols["card_open"]) == 0xE7F0_00F0

    said, _ = attempt({}, meddle=break_it)
    assert "the boot stub failed: unknown instruction at FFFF" in said


@pytest.mark.parametrize("name", boards.names())
def test_every_board_has_one(name):
    """With its own memory, card and UART."""
    board = boards.load(name)
    header = boot.c_header(board)
    uart = {"ps0": 0xE000_0000, "ps1": 0xE000_1000, "pl": 0xE000_0000}[board.uart.where]
    for line in (f'BOARD_TITLE "{board.title}"', f"BOARD_UART 0x{uart:x}u",
                 "BOARD_SD 0xe0100000u", f"BOARD_DDR_BYTES 0x{board.dram.bytes:x}u",
                 "BOARD_FPGA_RST_CTRL 0xf8000240u", "BOARD_LVL_SHFTR_EN 0xf8000900u"):
        assert f"#define {line}\n" in header
    hertz = int(header.split("BOARD_SD_HZ ")[1].split("u")[0], 16)
    ticks = int(header.split("BOARD_TIMER_HZ ")[1].split("u")[0], 16)
    assert abs(hertz - 50e6) < 1e3 and abs(ticks - 333.3e6) < 1e6


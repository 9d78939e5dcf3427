// BITNET.BIT, as the tool wrote it, into the fabric through the processor configuration port
// (UG585, "PL Configuration"; order of the steps as in U-Boot's zynqpl.c).
#include "boot.h"

#define NAME "BITNET.BIT"
#define DEVICE "7z020" // in the part's name
// the configuration interface
#define CONTROL 0xf8007000u
#define EVENTS 0xf800700cu
#define STATUS 0xf8007014u
#define DMA_SOURCE 0xf8007018u
#define DMA_TARGET 0xf800701cu
#define DMA_SOURCE_WORDS 0xf8007020u
#define DMA_TARGET_WORDS 0xf8007024u
#define UNLOCK 0xf8007034u
#define MODE 0xf8007080u
#define UNLOCK_KEY 0x757bdf0du
#define PROGRAM 0x40000000u // of CONTROL: low erases the fabric
#define PORT_ON 0x0c000000u
#define QUARTER_RATE 0x02000000u
#define LOOPBACK 0x10u // of MODE
#define ERASED 0x10u   // of STATUS
#define QUEUE_FULL 0x80000000u
#define DMA_DONE 0x2000u // of EVENTS
#define DMA_FAILED 0x00340840u
#define CONFIGURED 0x4u
#define LAST 1u // of an address: done when the fabric has taken it, too
#define TO_THE_PORT 0xffffffffu
#define WAIT_MS 1000

// Below the model: pieces of the file, which begin at blocks of the card, and the words in them.
// The port's bursts want them at a multiple of their length; U-Boot, too, sends from DRAM only.
#define CHUNK 0x20000u
static uint32_t *const words = (uint32_t *)0x00100000;
static uint8_t *const bytes = (uint8_t *)0x00180000; // a piece stands a block behind
_Static_assert(0x00180000 + SD_BLOCK + CHUNK <= MODEL_BASE, "a piece reaches into the model");
static uint32_t begin; // of the words in the file

static bool wrong(const char *why)
{
    say(NAME);
    say(why);
    return false;
}

static uint32_t big_endian(const uint8_t *at, uint32_t count)
{
    uint32_t value = 0;
    while (count--)
        value = value << 8 | *at++;
    return value;
}

static bool contains(const uint8_t *text, uint32_t length, const char *wanted)
{
    for (uint32_t i = 0; i < length; i++)
        for (uint32_t j = 0; i + j < length && text[i + j] == (uint8_t)wanted[j]; j++)
            if (!wanted[j + 1])
                return true;
    return false;
}

// Where the words begin in the file, after the fields a to d (design, part, date, time) and the
// length in e; 0 if it is not a bitstream for this chip.
static uint32_t words_begin(uint32_t head)
{
    uint32_t at = 2 + big_endian(bytes, 2) + 2;
    bool fits = false;
    while (at + 5 <= head) {
        uint8_t field = bytes[at];
        uint32_t length = big_endian(bytes + at + 1, 2);
        if (field == 'e') {
            if (!fits)
                return wrong(" is for another chip: this board has an xc7z020\n");
            length = big_endian(bytes + at + 1, 4);
            if (length % 4 || length != file_bytes() - (at + 5))
                return wrong(" is not whole: copy it again\n");
            return at + 5;
        }
        if (field < 'a' || field > 'd' || at + 3 + length > head)
            break;
        if (field == 'b')
            fits = contains(bytes + at + 3, length, DEVICE);
        at += 3 + length;
    }
    return wrong(" is not a bitstream: copy the .bit file that the tool wrote\n");
}

// Nothing from the fabric reaches the processing system until start_fabric.
static void isolate(void)
{
    hw_write(BOARD_SLCR_UNLOCK, BOARD_SLCR_UNLOCK_KEY);
    hw_write(BOARD_FPGA_RST_CTRL, 0xf);
    hw_write(BOARD_LVL_SHFTR_EN, 0);
    hw_write(BOARD_LVL_SHFTR_EN, 0xa); // from the processing system only
    hw_write(BOARD_SLCR_LOCK, BOARD_SLCR_LOCK_KEY);
}

// So that nothing says any more that it is configured.
static bool erase(void)
{
    hw_write(UNLOCK, UNLOCK_KEY);
    isolate();
    hw_write(MODE, hw_read(MODE) & ~LOOPBACK);
    uint32_t control = (hw_read(CONTROL) | PORT_ON) & ~QUARTER_RATE;
    hw_write(CONTROL, control | PROGRAM);
    hw_write(CONTROL, control & ~PROGRAM);
    bool erasing = hw_wait(STATUS, ERASED, false, WAIT_MS);
    hw_write(CONTROL, control | PROGRAM);
    bool erased = erasing && hw_wait(STATUS, ERASED, true, WAIT_MS);
    hw_write(EVENTS, ~0u);
    return erased && hw_wait(STATUS, QUEUE_FULL, false, WAIT_MS);
}

static bool send(uint32_t count)
{
    hw_write(DMA_SOURCE, (uint32_t)(uintptr_t)words | LAST);
    hw_write(DMA_TARGET, TO_THE_PORT);
    hw_write(DMA_SOURCE_WORDS, count);
    hw_write(DMA_TARGET_WORDS, 0);
    if (!hw_wait(EVENTS, DMA_DONE | DMA_FAILED, true, WAIT_MS) || hw_read(EVENTS) & DMA_FAILED)
        return wrong(" did not reach the fabric: the configuration port reports an error\n");
    hw_write(EVENTS, DMA_DONE);
    return true;
}

// The file has its words the other way round, and anywhere; they are taken out of pieces that begin
// at blocks of the card, so that the DMA brings those.
static bool send_all(void)
{
    uint32_t at = begin / SD_BLOCK * SD_BLOCK, left = file_bytes() - at;
    uint32_t kept = 0; // bytes of a word that begins in the piece before; they lie before the next
    uint32_t skip = begin - at;
    if (!file_seek(at))
        return false;
    while (left) {
        uint32_t now = left < CHUNK ? left : CHUNK;
        if (!file_read(bytes + SD_BLOCK, now))
            return false;
        const uint8_t *from = bytes + SD_BLOCK + skip - kept;
        uint32_t count = (now - skip + kept) / 4;
        for (uint32_t i = 0; i < count; i++)
            words[i] = big_endian(from + 4 * i, 4);
        if (!send(count))
            return false;
        kept = (now - skip + kept) % 4;
        for (uint32_t i = 1; i <= kept; i++)
            bytes[SD_BLOCK - i] = bytes[SD_BLOCK + now - i];
        left -= now;
        skip = 0;
    }
    return true;
}

bool bitstream_there(void)
{
    if (!file_open(NAME, true))
        return false;
    uint32_t head = file_bytes() < SD_BLOCK ? file_bytes() : SD_BLOCK;
    begin = file_read(bytes, head) ? words_begin(head) : 0;
    return begin;
}

bool bitstream_load(void)
{
    if (!file_open(NAME, true))
        return false;
    if (!erase()) {
        say("the fabric cannot be erased: is it supplied with power?\n");
        return false;
    }
    if (!send_all())
        return false;
    if (!hw_wait(EVENTS, CONFIGURED, true, WAIT_MS))
        return wrong(" was not taken: it is damaged, or for another chip\n");
    return true;
}

void bitstream_await(void)
{
    say("waiting for a bitstream over JTAG\n");
    erase();
    while (!hw_wait(EVENTS, CONFIGURED, true, WAIT_MS))
        ;
}

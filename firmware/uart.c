#include "uart.h"

#include "board.h"
#include "outside.h"
#include <generated/datagram.h>

#define SILENCE_CYCLES (CONFIG_CLOCK_FREQUENCY / 20) // 50 ms without a byte end a datagram
#define FIRST_DDR 0x100000u // the network side's port does not reach the megabyte below
#define FRAME_CYCLES 8192u
#define WORDS (DATAGRAM_HEAD_WORDS + DATAGRAM_MOST_WORDS + 1)
enum { MAGIC, TOKEN, SEQUENCE, KIND, ADDRESS, DATA };

static uint32_t datagram[WORDS]; // that is being received, and then its answer
static uint32_t received;        // words of it
static uint32_t shift, bytes;    // the last four bytes; how many of them are of the word that comes
static uint32_t last_byte;       // when it came
static bool fast;                // the rate is not the base one
static uint32_t stray;           // bytes outside of a datagram, since the last one
static uint32_t malformed;       // datagrams that were begun and came to nothing
static uint32_t token;           // of the host at this line, if it holds the board
static uint32_t last, last_status;                     // WRITE that was done last
static uint32_t recent[DATAGRAM_RECENT_WORDS], newest; // DATA that arrived

static void put(uint8_t byte)
{
    while (uart_txfull_read())
        ;
    uart_rxtx_write(byte);
}

void uart_text(const char *text)
{
    for (; *text; text++)
        put((uint8_t)*text);
}

void uart_hex(uint32_t value)
{
    for (int place = 28; place >= 0; place -= 4)
        put((uint8_t)"0123456789abcdef"[value >> place & 15]);
}

static uint32_t crc_word(uint32_t crc, uint32_t word)
{
    static const uint32_t nibble[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    crc ^= word;
    for (int i = 0; i < 8; i++)
        crc = nibble[crc & 15] ^ crc >> 4;
    return crc;
}

static void put_word(uint32_t word)
{
    for (uint32_t i = 0; i < 4; i++)
        put((uint8_t)(word >> (8 * i)));
}

static void answer(uint32_t status, uint32_t count)
{
    uint32_t crc = ~0u;
    datagram[KIND] = (datagram[KIND] & 0xff) | status << 8 | count << 16;
    for (uint32_t i = 0; i < DATA + count; i++) {
        watchdog_feed();
        put_word(datagram[i]);
        crc = crc_word(crc, datagram[i]);
    }
    put_word(~crc);
}

// -- who may ask, and for what: as gateware/network/claim.py and engine.py have it
// ---------------------------------------------------

enum { ASK_CLAIM = 1, ASK_TAKE_OVER = 2, ASK_LEAVE = 4 };

static void set_rate(uint32_t baud);

void uart_init(void)
{
    set_rate(DATAGRAM_BASE_RATE);
    network_uart_ask_write(ASK_LEAVE);
    protect(0, 0);
}

static bool claim(uint32_t wanted, bool take_over)
{
    uint32_t before = network_claims_read();
    network_uart_token_write(wanted);
    network_uart_ask_write(ASK_CLAIM | (take_over ? ASK_TAKE_OVER : 0));
    bool granted = network_source_read() == DATAGRAM_SOURCE_UART &&
                   (network_claims_read() != before || wanted == token);
    if (granted && wanted != token)
        last = datagram[SEQUENCE];
    if (granted)
        token = wanted;
    return granted;
}

static void claim_asked(uint32_t count)
{
    if (count != DATAGRAM_STATE_WORDS) {
        answer(DATAGRAM_STATUS_BAD, 0);
        return;
    }
    uint32_t wanted = datagram[TOKEN], status = DATAGRAM_STATUS_OK;
    if (!wanted || !claim(wanted, datagram[KIND] >> 8 & DATAGRAM_FLAG_TAKE_OVER))
        status = network_source_read() == DATAGRAM_SOURCE_NONE ? DATAGRAM_STATUS_FREE
                                                               : DATAGRAM_STATUS_HELD;
    const uint32_t state[DATAGRAM_STATE_WORDS] = {
        [DATAGRAM_STATE_SOURCE] = network_source_read(),
        [DATAGRAM_STATE_IP] = network_ip_read(),
        [DATAGRAM_STATE_PORT] = network_port_read(),
        [DATAGRAM_STATE_SECONDS_HELD] = network_seconds_held_read(),
        [DATAGRAM_STATE_SECONDS_SILENT] = network_seconds_silent_read(),
        [DATAGRAM_STATE_CLAIMS] = network_claims_read(),
        [DATAGRAM_STATE_MALFORMED] = malformed,
        [DATAGRAM_STATE_CROWDED] = 0,
    };
    for (uint32_t i = 0; i < DATAGRAM_STATE_WORDS; i++)
        datagram[DATA + i] = state[i];
    answer(status, DATAGRAM_STATE_WORDS);
}

void protect(uint32_t first, uint32_t end)
{
    network_protect_end_write(0);
    network_protect_first_write(first);
    network_protect_end_write(end);
    if (first < end && end == MAIN_RAM_SIZE >> 12)
        for (uint32_t start = cycles_low(); cycles_low() - start < FRAME_CYCLES;)
            ; // a frame that was looked at before is done now
}

static bool within(uint32_t address, uint32_t base, uint32_t size)
{
    return address - base < size;
}

static bool writable(uint32_t address)
{
    return address % 4 == 0 &&
           (within(address, SRAM_BASE, SRAM_SIZE) ||
            within(address, MAIN_RAM_BASE, MAIN_RAM_SIZE) ||
            within(address, MAILBOX_BASE, MAILBOX_SIZE) || within(address, CSR_BASE, CSR_SIZE));
}

static bool is_protected(uint32_t address)
{
    uint32_t block = (address - MAIN_RAM_BASE) >> 12;
    return within(address, MAIN_RAM_BASE, MAIN_RAM_SIZE) && block >= network_protect_first_read() &&
           block < network_protect_end_read();
}

static uint32_t write_words(uint32_t address, uint32_t count)
{
    uint32_t end = address + 4 * (count - 1);
    if (!writable(address) || !writable(end))
        return DATAGRAM_STATUS_UNMAPPED;
    if (is_protected(address) || is_protected(end))
        return DATAGRAM_STATUS_PROTECTED;
    for (uint32_t i = 0; i < count; i++)
        ((volatile uint32_t *)address)[i] = datagram[DATA + i];
    stores_drain();
    return DATAGRAM_STATUS_OK;
}

static void read_asked(uint32_t count)
{
    uint32_t status = DATAGRAM_STATUS_OK;
    cache_forget();
    for (uint32_t i = 0; i < count; i++) {
        uint32_t address = datagram[DATA + i];
        bool there = writable(address) || (address % 4 == 0 && address < ROM_SIZE);
        datagram[DATA + i] = there ? *(volatile uint32_t *)address : ~0u;
        if (!there)
            status = DATAGRAM_STATUS_UNMAPPED;
    }
    answer(status, count);
}

static void write_asked(uint32_t count)
{
    int32_t age = (int32_t)(datagram[SEQUENCE] - last);
    if (count == 0 || datagram[ADDRESS] % 4)
        answer(DATAGRAM_STATUS_BAD, 0);
    else if (age >= 0) {
        if (age) {
            last_status = write_words(datagram[ADDRESS], count);
            last = datagram[SEQUENCE];
        }
        answer(last_status, 0);
    }
}

static void data_asked(uint32_t count)
{
    bool wanted = datagram[KIND] >> 8 & DATAGRAM_FLAG_ANSWER;
    uint32_t address = datagram[ADDRESS], status = DATAGRAM_STATUS_BAD;
    if (count && count % 2 == 0 && address % 8 == 0) {
        if ((int32_t)(datagram[SEQUENCE] - last) < 0)
            return;
        status = address >= FIRST_DDR && address < MAIN_RAM_SIZE
                     ? write_words(MAIN_RAM_BASE + address, count)
                     : DATAGRAM_STATUS_UNMAPPED;
    }
    if (status != DATAGRAM_STATUS_OK) {
        answer(status, 0);
        return;
    }
    newest = (newest + 1) % DATAGRAM_RECENT_WORDS;
    recent[newest] = datagram[SEQUENCE];
    if (!wanted)
        return;
    for (uint32_t i = 0; i < DATAGRAM_RECENT_WORDS; i++)
        datagram[DATA + i] = recent[(newest - i) % DATAGRAM_RECENT_WORDS];
    answer(status, DATAGRAM_RECENT_WORDS);
}

static void set_rate(uint32_t baud)
{
    line_set(baud);
    received = 0;
    fast = baud != DATAGRAM_BASE_RATE;
    stray = 0;
}

// Changes the rate behind what is still to be sent.
static void settle(uint32_t baud)
{
    line_drain();
    set_rate(baud);
}

static void rate_asked(void)
{
    uint32_t baud = datagram[ADDRESS];
    if (baud < DATAGRAM_BASE_RATE || !line_can(baud)) {
        answer(DATAGRAM_STATUS_BAD, 0);
        return;
    }
    answer(DATAGRAM_STATUS_OK, 0);
    settle(baud);
}

static void serve(void)
{
    uint32_t count = datagram[KIND] >> 16, operation = datagram[KIND] & 0xff;
    if (operation == DATAGRAM_OP_CLAIM) {
        claim_asked(count);
        return;
    }
    if (!token || datagram[TOKEN] != token || network_source_read() != DATAGRAM_SOURCE_UART ||
        !claim(token, false)) {
        answer(network_source_read() == DATAGRAM_SOURCE_NONE ? DATAGRAM_STATUS_FREE
                                                             : DATAGRAM_STATUS_HELD,
               0);
        return;
    }
    switch (operation) {
    case DATAGRAM_OP_RELEASE:
        network_uart_ask_write(ASK_LEAVE);
        token = 0;
        answer(DATAGRAM_STATUS_OK, 0);
        if (fast)
            settle(DATAGRAM_BASE_RATE);
        break;
    case DATAGRAM_OP_READ:
        read_asked(count);
        break;
    case DATAGRAM_OP_WRITE:
        write_asked(count);
        break;
    case DATAGRAM_OP_DATA:
        data_asked(count);
        break;
    case DATAGRAM_OP_RATE:
        rate_asked();
        break;
    default:
        answer(DATAGRAM_STATUS_BAD, 0);
    }
}

// -- bytes to datagrams ---------------------------------------------------------------------------

static bool drop(void)
{
    malformed++;
    received = 0;
    return false;
}

// True when a whole, undamaged datagram is there.
static bool feed(uint8_t byte)
{
    shift = shift >> 8 | (uint32_t)byte << 24;
    if (!received) {
        received = shift == DATAGRAM_MAGIC;
        datagram[MAGIC] = shift;
        bytes = 0;
        return false;
    }
    if (++bytes < 4)
        return false;
    bytes = 0;
    datagram[received++] = shift;
    if (received <= KIND)
        return false;
    uint32_t count = datagram[KIND] >> 16;
    if (count > DATAGRAM_MOST_WORDS)
        return drop();
    if (received < DATA + count + 1)
        return false;
    uint32_t crc = ~0u;
    for (uint32_t i = 0; i < DATA + count; i++)
        crc = crc_word(crc, datagram[i]);
    if (~crc != datagram[DATA + count])
        return drop();
    received = 0;
    return true;
}

void uart_serve(void)
{
    if (received && uart_rxempty_read() && cycles_low() - last_byte > SILENCE_CYCLES)
        drop();
    while (!uart_rxempty_read()) {
        uint8_t byte = (uint8_t)uart_rxtx_read();
        uart_ev_pending_write(2); // this, not the read, takes the byte out of the FIFO
        last_byte = cycles_low();
        if (feed(byte))
            serve();
        stray = received ? 0 : stray + 1;
        if (fast && stray >= DATAGRAM_LOST_BYTES)
            set_rate(DATAGRAM_BASE_RATE);
        watchdog_feed();
    }
    if (!received)
        ethernet_serve();
}

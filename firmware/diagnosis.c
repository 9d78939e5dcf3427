#include "diagnosis.h"

#include "board.h"
#include "fault.h"
#include "model.h"
#include "outside.h"
#include "uart.h"
#include <generated/tvu.h>

#define ROW_WORDS 16u // of a product
#define APART (1u << 26)

// Whether `bytes` at `address` are memory of a model that is not loaded.
static bool is_free(uint32_t address, uint32_t bytes)
{
    return address >= MODEL_BASE && address < MAIN_RAM_SIZE && bytes <= MAIN_RAM_SIZE - address &&
           !model_loaded;
}

static void refuse(const struct message *m, uint32_t length, bool bad)
{
    if (m->length != length || bad)
        fault_raise(ERROR_ARGUMENT, 0);
}

void diagnosis_stream(const struct message *m)
{
    // garbage if m->length is not STREAM_WORDS
    volatile const uint32_t *p = m->payload;
    uint32_t address = p[STREAM_ADDRESS], rows = p[STREAM_ROWS], words = p[STREAM_WORDS_EACH];
    uint32_t stride = p[STREAM_STRIDE], apart = p[STREAM_APART];
    uint32_t before[TVU_COUNTERS], counts[TVU_COUNTERS];
    bool fits = rows - 1 < 4095 && stride <= 4095 && words - 1 < ROW_WORDS &&
                rows * stride < MAIN_RAM_SIZE / TVU_BLOCK_BYTES;
    uint32_t bytes = fits ? (rows * stride + 1) * TVU_BLOCK_BYTES : 0;
    refuse(m, STREAM_WORDS,
           !fits || rows * words % ROW_WORDS || p[STREAM_MASK] - 1 > 14 || apart > 1 ||
               p[STREAM_BURSTS] > 63 || address % TVU_BLOCK_BYTES || !is_free(address, bytes) ||
               // so that flipped bits are bits set
               (apart && (address + bytes > APART || !is_free(address + 3 * APART, bytes))));
    if (fault_pending())
        return;
    tvu_sset(1, 0);
    for (uint32_t i = 0; i < TVU_COUNTERS; i++)
        before[i] = tvu_counter(i, 1);
    if (!tvu_wait())
        return;
    tvu_ports(p[STREAM_MASK], apart, p[STREAM_BURSTS]);
    tvu_section(1);
    tvu_streamr(address, rows, words, stride);
    tvu_dot(0, ROW_WORDS, TVU_MODE_BASE3, 0, 0, 1, 0, rows * words / ROW_WORDS);
    tvu_section(0);
    if (!tvu_wait())
        return;
    tvu_reset(); // all ports again
    for (uint32_t i = 0; i < TVU_COUNTERS; i++)
        counts[i] = tvu_counter(i, 1) - before[i];
    link_send(EVENT_COUNTERS, counts, TVU_COUNTERS);
}

// A float32 that is a small integer.
static uint32_t integer(uint32_t bits)
{
    uint32_t shift = 150 - (bits >> 23 & 255), value = (bits & 0x7fffff) | 0x800000;
    value = shift < 24 ? value >> shift : 0;
    return bits >> 31 ? -value : value;
}

void diagnosis_read(const struct message *m)
{
    static uint32_t found[MOST_READ * TVU_WORD_BYTES / 4];
    uint32_t address = m->payload[0], words = m->payload[1];
    refuse(m, 2,
           words == 0 || words > MOST_READ || address % TVU_WORD_BYTES ||
               !is_free(address, words * TVU_WORD_BYTES));
    if (fault_pending())
        return;
    tvu_sset(TVU_LANES + 1, TVU_FLOAT_ONE);
    tvu_stream(address, words);
    tvu_loadb(0, TVU_LANES + 1, words * TVU_WORD_BYTES, 0);
    for (uint32_t row = 0; row < words * TVU_WORD_BYTES / TVU_LANES; row++) {
        for (uint32_t n = 1; n <= TVU_LANES; n++)
            tvu_sum(row, n, n);
        if (!tvu_wait())
            return;
        for (uint32_t n = 0, before = 0; n < TVU_LANES; n++) {
            uint32_t sum = integer(tvu_sget(n + 1)), at = row * TVU_LANES + n;
            if (at % 4 == 0)
                found[at / 4] = 0;
            found[at / 4] |= ((sum - before) & 0xff) << 8 * (at % 4);
            before = sum;
        }
    }
    link_send(EVENT_READ, found, words * TVU_WORD_BYTES / 4);
}

void diagnosis_store(const struct message *m)
{
    uint32_t from = m->payload[0], to = m->payload[1], words = m->payload[2];
    refuse(m, 3,
           words == 0 || words > MOST_READ || (from | to) % TVU_WORD_BYTES ||
               !is_free(from, words * TVU_WORD_BYTES) || !is_free(to, words * TVU_WORD_BYTES));
    if (fault_pending())
        return;
    tvu_sset(1, TVU_FLOAT_ONE);
    tvu_stream(from, words);
    tvu_loadb(0, 1, words * TVU_WORD_BYTES, 0);
    tvu_storeq(to, 0, words * TVU_WORD_BYTES, 1);
    if (tvu_wait())
        link_send(EVENT_DONE, 0, 0);
}

void diagnosis_memory(const struct message *m)
{
    uint32_t address = m->payload[0], words = m->payload[1], flip = m->payload[2];
    refuse(m, 3,
           words == 0 || words > MAIN_RAM_SIZE / 4 || address % 4 || !is_free(address, 4 * words));
    if (fault_pending())
        return;
    uint32_t found[MEMORY_WORDS] = {0};
    for (uint32_t i = 0; i < words; i++) {
        ddr_put(address + 4 * i, MEMORY_PATTERN(address + 4 * i) ^ flip);
        if (i % 1024 == 0) {
            link_progress(i, 2 * words);
            watchdog_feed();
            uart_serve();
        }
    }
    stores_drain();
    cache_forget();
    for (uint32_t i = 0; i < words; i++) {
        uint32_t expected = MEMORY_PATTERN(address + 4 * i) ^ flip,
                 got = *ddr_word(address + 4 * i);
        if (got != expected && !found[MEMORY_WRONG]++) {
            found[MEMORY_ADDRESS] = address + 4 * i;
            found[MEMORY_EXPECTED] = expected;
            found[MEMORY_FOUND] = got;
        }
        found[MEMORY_DIFFER] |= got ^ expected;
        if (i % 1024 == 0) {
            link_progress(words + i, 2 * words);
            watchdog_feed();
            uart_serve();
        }
    }
    link_send(EVENT_MEMORY, found, MEMORY_WORDS);
}

void diagnosis_outside(void)
{
    uint32_t fields[OUTSIDE_WORDS];
    for (uint32_t i = 0; i < OUTSIDE_WORDS; i++)
        fields[i] = OUTSIDE_UNKNOWN;
    outside_tell(fields);
    fields[OUTSIDE_NOW] = cycles_low();
    link_send(EVENT_OUTSIDE, fields, OUTSIDE_WORDS);
}

// Boot and command loop.
#include "board.h"
#include "diagnosis.h"
#include "fault.h"
#include "link.h"
#include "model.h"
#include "outside.h"
#include "pages.h"
#include "selftest.h"
#include "slots.h"
#include "uart.h"
#include <generated/tvu.h>

static uint32_t selftest_result;

static void do_info(void)
{
    uint32_t info[INFO_WORDS] = {
        [INFO_VERSION] = PROTOCOL_VERSION,
        [INFO_ISA_HASH] = TVU_ISA_HASH,
        [INFO_CLOCK_HZ] = CONFIG_CLOCK_FREQUENCY,
        [INFO_SELFTEST] = selftest_result,
        [INFO_MODEL_ID] = model_loaded ? model.model_id : 0,
        [INFO_MODEL_BASE] = MODEL_BASE,
        [INFO_MEMORY_BYTES] = MAIN_RAM_SIZE,
        [INFO_RESTARTS] = fault_restart->count,
        [INFO_LAST_ERROR] = fault_restart->code,
        [INFO_LAST_DETAIL] = fault_restart->detail,
        [INFO_CACHE_TOKENS] = model_loaded ? model.cache_tokens : 0,
        [INFO_FREE_TOKENS] = pages_free(),
    };
    for (uint32_t i = 0; i < SLOTS; i++)
        info[INFO_POSITION0 + i] = slots_position(i);
    link_send(EVENT_INFO, info, INFO_WORDS);
}

static void do_load(const struct message *m)
{
    if (model_load(m->length && m->payload[0]))
        link_send1(EVENT_LOADED, model.model_id);
    else
        model_unload();
}

// Checksums of equal pieces of DDR, as many as an event holds, so that a host sees which of them it
// need not send.
static void do_sums(const struct message *m)
{
    // garbage if m->length is not 3
    uint32_t address = m->payload[0], words = m->payload[1], count = m->payload[2];
    uint32_t sums[MOST_SUMS];
    if (m->length != 3 || address % TVU_BLOCK_BYTES || address < MODEL_BASE ||
        address >= MAIN_RAM_SIZE || count == 0 || count > MOST_SUMS || words == 0 ||
        words % TVU_BLOCK_WORDS || words > (MAIN_RAM_SIZE - address) / TVU_WORD_BYTES / count) {
        fault_raise(ERROR_ARGUMENT, 0);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        tvu_stream(address + i * words * TVU_WORD_BYTES, words);
        tvu_check(1, words);
        if (!tvu_wait())
            return;
        sums[i] = tvu_sget(1);
        link_progress(i, count);
        uart_serve();
    }
    link_send(EVENT_SUMS, sums, count);
}

// A matrix-vector product over whatever lies at MODEL_BASE, for measuring the stream.
static void do_gemv(const struct message *m)
{
    // garbage if m->length is not 3
    uint32_t rows = m->payload[0], words = m->payload[1], mode = m->payload[2];
    uint32_t most = mode == TVU_MODE_INT8 ? TVU_ROW_WORDS : TVU_ACT_WORDS;
    if (m->length != 3 || rows == 0 || rows > 16384 || words == 0 || words > most ||
        mode > TVU_MODE_INT8) {
        fault_raise(ERROR_ARGUMENT, 0);
        return;
    }
    uint32_t before[TVU_COUNTERS], counts[TVU_COUNTERS];
    tvu_sset(1, 0);
    for (uint32_t i = 0; i < TVU_COUNTERS; i++)
        before[i] = tvu_counter(i, 1);
    tvu_section(1);
    tvu_stream(MODEL_BASE, rows * words);
    tvu_dot(0, words, mode, 0, 0, 1, 0, rows);
    tvu_section(0);
    if (!tvu_wait())
        return;
    for (uint32_t i = 0; i < TVU_COUNTERS; i++)
        counts[i] = tvu_counter(i, 1) - before[i];
    link_send(EVENT_COUNTERS, counts, TVU_COUNTERS);
}

// What a board is asked whose vector unit does not work.
static bool is_diagnosis(uint32_t command)
{
    return command == COMMAND_INFO || command == COMMAND_UNLOAD || command == COMMAND_SUMS ||
           (command >= COMMAND_STREAM && command <= COMMAND_OUTSIDE);
}

// What answers go on beside.
static bool leaves_slots_alone(uint32_t command)
{
    return command == COMMAND_INFO || command == COMMAND_RESET || command == COMMAND_GENERATE ||
           command == COMMAND_SCORE;
}

static void run(const struct message *m)
{
    if (!leaves_slots_alone(m->type)) {
        slots_cancel();
        link_answer(m->sequence);
    }
    switch (m->type) {
    case COMMAND_INFO:
        do_info();
        break;
    case COMMAND_LOAD:
        do_load(m);
        break;
    case COMMAND_RESET:
        slots_keep(m);
        break;
    case COMMAND_GENERATE:
        slots_generate(m);
        break;
    case COMMAND_SCORE:
        slots_score(m);
        break;
    case COMMAND_CLEAR:
        slots_reset();
        link_send(EVENT_DONE, 0, 0);
        break;
    case COMMAND_UNLOAD:
        model_unload();
        link_send(EVENT_DONE, 0, 0);
        break;
    case COMMAND_SUMS:
        do_sums(m);
        break;
    case COMMAND_GEMV:
        do_gemv(m);
        break;
    case COMMAND_STREAM:
        diagnosis_stream(m);
        break;
    case COMMAND_READ:
        diagnosis_read(m);
        break;
    case COMMAND_STORE:
        diagnosis_store(m);
        break;
    case COMMAND_MEMORY:
        diagnosis_memory(m);
        break;
    case COMMAND_OUTSIDE:
        diagnosis_outside();
        break;
    case COMMAND_HANG:
        for (;;)
            ;
    default:
        fault_raise(ERROR_COMMAND, m->type);
    }
}

static void serve(const struct message *m)
{
    fault_doing(m->type);
    link_doing(m->type);
    if (tvu_status()) // memory was away when it was reset last
        tvu_reset();
    if (selftest_result && !is_diagnosis(m->type))
        fault_raise(ERROR_SELFTEST, selftest_result);
    else
        run(m);
    if (fault_pending()) {
        tvu_reset(); // whatever it was, the next command finds the unit as new
        fault_tell();
        fault_forget();
    }
    link_release();
}

int main(void);
int main(void)
{
    fault_boot();
    tvu_reset();
    link_init();
    uart_init();
    ethernet_init();
    uart_text("\nbitnet firmware, protocol ");
    uart_hex(PROTOCOL_VERSION);
    uart_text(", ISA ");
    uart_hex(TVU_ISA_HASH);
    if (tvu_id() != TVU_ISA_HASH) {
        uart_text(": the vector unit is of another version, ");
        uart_hex(tvu_id());
        selftest_result = 0xffffffff;
    } else {
        selftest_result = selftest();
        uart_text(selftest_result ? ": self-test FAILED\n" : ": self-test passed\n");
    }
    if (fault_pending()) {
        fault_tell();
        fault_forget();
    }
    link_open((const uint32_t[]){fault_restart->count, fault_restart->code, fault_restart->detail});
    uint32_t doing = 0;
    for (;;) {
        struct message message;
        watchdog_feed();
        if (link_poll(&message)) {
            serve(&message);
            doing = message.type;
        } else if (slots_busy()) {
            slots_step();
        }
        uint32_t now = slots_busy() ? COMMAND_GENERATE : 0;
        if (now == doing)
            continue;
        doing = now;
        fault_doing(doing);
        link_doing(doing);
        tvu_section(0);
    }
}

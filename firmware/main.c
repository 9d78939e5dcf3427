// Boot and command loop.
#include "board.h"
#include "candidates.h"
#include "diagnosis.h"
#include "fault.h"
#include "link.h"
#include "model.h"
#include "outside.h"
#include "selftest.h"
#include "transformer.h"
#include "uart.h"
#include <generated/tvu.h>

static uint32_t selftest_result;

static bool is_stop(uint32_t token)
{
    const uint32_t stops[4] = {model.stop0, model.stop1, model.stop2, model.stop3};
    for (uint32_t i = 0; i < model.stop_count; i++)
        if (stops[i] == token)
            return true;
    return false;
}

static void do_info(void)
{
    uint32_t info[INFO_WORDS] = {
        [INFO_VERSION] = PROTOCOL_VERSION,
        [INFO_ISA_HASH] = TVU_ISA_HASH,
        [INFO_CLOCK_HZ] = CONFIG_CLOCK_FREQUENCY,
        [INFO_SELFTEST] = selftest_result,
        [INFO_MODEL_ID] = model_loaded ? model.model_id : 0,
        [INFO_POSITION] = position,
        [INFO_MODEL_BASE] = MODEL_BASE,
        [INFO_MEMORY_BYTES] = MAIN_RAM_SIZE,
        [INFO_RESTARTS] = fault_restart->count,
        [INFO_LAST_ERROR] = fault_restart->code,
        [INFO_LAST_DETAIL] = fault_restart->detail,
    };
    link_send(EVENT_INFO, info, INFO_WORDS);
}

static void do_load(const struct message *m)
{
    position = 0;
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

// Whether the host means the conversation that the KV cache holds.
static bool goes_on_from(uint32_t there)
{
    if (model_loaded && there != position)
        fault_raise(ERROR_POSITION, position);
    return !fault_pending();
}

// Processes the prompt, then writes the best tokens until a stop token, the limit, the end of the
// context, or a cancel; or names the best ones for the host to choose from.
static void do_generate(const struct message *m)
{
    uint32_t count = m->length < GENERATE_WORDS ? 0 : m->payload[GENERATE_PROMPT_TOKENS];
    uint32_t max_tokens = m->payload[GENERATE_MAX_TOKENS];
    uint32_t options = m->payload[GENERATE_OPTIONS], wanted = m->payload[GENERATE_CANDIDATES];
    enum head head = options & OPTION_FULL_HEAD ? HEAD_FULL : HEAD_SCREENED;
    transformer_all_rows = options & OPTION_ALL_ROWS;
    transformer_all_columns = options & OPTION_ALL_COLUMNS;
    if (m->length >= GENERATE_WORDS && !goes_on_from(m->payload[GENERATE_POSITION]))
        return;
    if (count == 0 || m->length != GENERATE_WORDS + count) {
        fault_raise(ERROR_ARGUMENT, GENERATE_PROMPT_TOKENS);
        return;
    }
    if (wanted && max_tokens) {
        fault_raise(ERROR_ARGUMENT, GENERATE_CANDIDATES);
        return;
    }
    if (wanted && head == HEAD_FULL)
        head = HEAD_KEPT;
    if (!model_loaded || position + count > model.context) {
        fault_raise(model_loaded ? ERROR_CONTEXT : ERROR_NO_MODEL, model.context);
        return;
    }
    uint64_t start = cycles(), prefilled = 0;
    uint32_t tokens = 0, reason = STOP_LENGTH;
    struct logits logits = {0};
    transformer_count(true);
    for (uint32_t done = 0, told = 0; done < count;) {
        if (link_cancelled()) {
            reason = STOP_CANCEL;
            count = done;
            break;
        }
        uint32_t batch = transformer_batch();
        if (!batch)
            return;
        uint32_t step = count - done < batch ? count - done : batch;
        bool last = done + step == count;
        if (!transformer_forward(m->payload + GENERATE_WORDS + done, step,
                                 last && (max_tokens || wanted) ? head : HEAD_NONE, &logits))
            return;
        done += step;
        link_progress(done, count);
        if (done - told >= 8 || last) {
            uint32_t progress[2] = {done, count};
            link_send(EVENT_PROGRESS, progress, 2);
            transformer_count(false);
            told = done;
        }
    }
    link_release();
    if (wanted && reason == STOP_LENGTH)
        candidates_send(&logits, wanted);
    if (max_tokens > 1)
        transformer_count(true);
    prefilled = cycles();
    while (reason == STOP_LENGTH && tokens < max_tokens) {
        uint32_t token = logits.best;
        tokens++;
        if (tokens % 32 == 0)
            transformer_count(false);
        link_send1(EVENT_TOKEN, token);
        link_progress(tokens, max_tokens);
        if (is_stop(token))
            reason = STOP_STOP;
        else if (link_cancelled())
            reason = STOP_CANCEL;
        else if (position >= model.context)
            reason = STOP_CONTEXT;
        else if (tokens < max_tokens && !transformer_forward(&token, 1, head, &logits))
            return;
    }
    tvu_section(0);
    transformer_count(false);
    uint64_t decode = cycles() - prefilled, prefill = prefilled - start;
    uint32_t passes = tokens > 1 ? tokens - 1 : count ? count : 1;
    uint32_t stats[STATS_WORDS] = {
        [STATS_STOP_REASON] = reason,
        [STATS_TOKENS] = tokens,
        [STATS_PREFILL_TOKENS] = count,
        [STATS_PREFILL_CYCLES_LOW] = (uint32_t)prefill,
        [STATS_PREFILL_CYCLES_HIGH] = (uint32_t)(prefill >> 32),
        [STATS_DECODE_CYCLES_LOW] = (uint32_t)decode,
        [STATS_DECODE_CYCLES_HIGH] = (uint32_t)(decode >> 32),
        [STATS_POSITION] = position,
    };
    for (uint32_t i = 0; i < OPERATOR_COUNT * PARTS; i++)
        stats[STATS_EMBED_MOVING + i] = (uint32_t)(operator_counts[i / PARTS][i % PARTS] / passes);
    link_send(EVENT_STATS, stats, STATS_WORDS);
}

static void do_score(const struct message *m)
{
    struct logits logits;
    if (m->length != 2)
        fault_raise(ERROR_ARGUMENT, 0);
    else if (!model_loaded)
        fault_raise(ERROR_NO_MODEL, 0);
    else if (goes_on_from(m->payload[1]) && transformer_batch() &&
             transformer_forward(m->payload, 1, HEAD_KEPT, &logits)) {
        tvu_section(0);
        uint32_t reply[3] = {position, model.logits_base, model.vocab};
        link_send(EVENT_SCORED, reply, 3);
    }
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

static void run(const struct message *m)
{
    switch (m->type) {
    case COMMAND_INFO:
        do_info();
        break;
    case COMMAND_LOAD:
        do_load(m);
        break;
    case COMMAND_RESET:
        if (m->length && m->payload[0] > (model_loaded ? model.context : 0)) {
            fault_raise(ERROR_ARGUMENT, m->payload[0]);
            break;
        }
        position = m->length ? m->payload[0] : 0;
        link_send(EVENT_DONE, 0, 0);
        break;
    case COMMAND_GENERATE:
        do_generate(m);
        break;
    case COMMAND_SCORE:
        do_score(m);
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
    if (fault_pending())
        fault_report();
    link_open((const uint32_t[]){fault_restart->count, fault_restart->code, fault_restart->detail});
    for (;;) {
        struct message message;
        watchdog_feed();
        if (!link_poll(&message))
            continue;
        fault_doing(message.type);
        link_doing(message.type);
        if (tvu_status()) // memory was away when it was reset last
            tvu_reset();
        if (selftest_result && !is_diagnosis(message.type))
            fault_raise(ERROR_SELFTEST, selftest_result);
        else
            run(&message);
        if (fault_pending())
            tvu_reset(); // whatever it was, the next command finds the unit as new
        tvu_section(0);
        link_release();
        fault_doing(0);
        link_doing(0);
        if (fault_pending())
            fault_report();
    }
}

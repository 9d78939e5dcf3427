#include "model.h"

#include "board.h"
#include "fault.h"
#include "link.h"
#include "slots.h"
#include "transformer.h"
#include "uart.h"
#include <generated/plan.h>
#include <generated/tvu.h>

#define BLOCK_BITS 12 // of what is protected
#define PER_LAYER (KIND_COUNT - KIND_INPUT_NORM)

struct image_header model;
bool model_loaded;
uint32_t model_words[KIND_COUNT];
static struct tensor single[KIND_INPUT_NORM];
static struct tensor layered[IMAGE_MAX_LAYERS][PER_LAYER];

static struct tensor *slot(uint32_t kind, uint32_t layer)
{
    if (kind >= KIND_COUNT || layer >= IMAGE_MAX_LAYERS)
        return 0;
    return kind < KIND_INPUT_NORM ? &single[kind] : &layered[layer][kind - KIND_INPUT_NORM];
}

const struct tensor *model_tensor(enum image_kind kind, uint32_t layer)
{
    return slot(kind, layer);
}

uint32_t model_float_bits(enum image_kind kind, uint32_t index)
{
    return *ddr_word(tvu_physical(slot(kind, 0)->address + 4 * index));
}

static bool finite(uint32_t bits)
{
    return (bits >> 23 & 255) != 255;
}

// Where groups of weights have scales, the matrix has none of its own.
static bool scale_fits(uint32_t bits)
{
    return finite(bits) && (!model.group || bits == TVU_FLOAT_ONE);
}

static uint32_t float_bits(float value)
{
    union {
        float value;
        uint32_t bits;
    } u = {.value = value};
    return u.bits;
}

// The number of the limit of this firmware and machine that a model breaks, or 0. All that is
// computed from these fields afterwards fits 64 bits.
static uint32_t broken_limit(const struct image_header *h)
{
    uint32_t limit = plan_broken_limit(h);
    if (limit)
        return limit;
    return h->total_bytes > MAIN_RAM_SIZE - MODEL_BASE || h->ddr_bytes > h->total_bytes ? 100 : 0;
}

// What follows from the other fields must be what follows from them.
static bool consistent(const struct image_header *h)
{
    struct image_header laid = *h;
    uint64_t end = image_layout(&laid);
    return end == h->total_bytes && h->k_base == laid.k_base && h->v_base == laid.v_base &&
           h->ks_base == laid.ks_base && h->vs_base == laid.vs_base &&
           h->logits_base == laid.logits_base && h->candidates_base == laid.candidates_base &&
           h->residual_base == laid.residual_base && h->history_base == laid.history_base &&
           h->k_head_bytes == laid.k_head_bytes && h->v_head_bytes == laid.v_head_bytes &&
           h->s_head_bytes == laid.s_head_bytes && h->rank_levels == IMAGE_RANK_LEVELS(h->vocab) &&
           h->header_bytes == IMAGE_BLOCKS(sizeof *h + h->tensors * sizeof(struct image_tensor)) &&
           h->inverse_hidden_bits == float_bits(1.0f / (float)h->hidden) &&
           h->inverse_query_bits == float_bits(1.0f / (float)(h->heads * h->head_elements)) &&
           h->inverse_head_bits == float_bits(1.0f / (float)h->head_elements) &&
           h->inverse_intermediate_bits == float_bits(1.0f / (float)h->inner_elements) &&
           finite(h->eps_bits) && finite(h->score_scale_bits);
}

static bool read_header(void)
{
    const uint32_t words = sizeof model / 4;
    uint32_t *copy = (uint32_t *)&model;
    uint32_t sum = 0;
    model_loaded = false;
    cache_forget();
    for (uint32_t i = 0; i < words; i++)
        copy[i] = *ddr_word(MODEL_BASE + 4 * i);
    if (model.magic != IMAGE_MAGIC || model.version != IMAGE_VERSION ||
        model.tensors > KIND_COUNT * IMAGE_MAX_LAYERS) {
        fault_raise(ERROR_IMAGE, 0);
        return false;
    }
    uint32_t table = words + model.tensors * sizeof(struct image_tensor) / 4;
    for (uint32_t i = 0; i < table; i++)
        if (i != words - 1) // the checksum itself
            sum = (sum << 1 | sum >> 31) + *ddr_word(MODEL_BASE + 4 * i);
    if (sum != model.header_checksum) {
        fault_raise(ERROR_IMAGE, words - 1);
        return false;
    }
    uint32_t limit = broken_limit(&model);
    if (limit)
        fault_raise(ERROR_TOO_LARGE, limit);
    else if (!consistent(&model))
        fault_raise(ERROR_IMAGE, words);
    return !fault_pending();
}

// Whether the model has every tensor once and no other; DOWN_ROWS in all layers or, where there is
// DOWN, in none.
static bool complete(void)
{
    uint32_t down_rows = 0;
    for (uint32_t kind = 0; kind < KIND_COUNT; kind++)
        for (uint32_t layer = 0; layer < (kind < KIND_INPUT_NORM ? 1 : model.layers); layer++) {
            bool there = slot(kind, layer)->address != 0;
            if (kind == KIND_DOWN_ROWS)
                down_rows += there;
            else if (there != image_has(&model, kind))
                return false;
        }
    return down_rows == model.layers || (down_rows == 0 && image_has(&model, KIND_DOWN));
}

void model_unload(void)
{
    model_loaded = false;
    slots_reset();
    protect(0, 0);
}

bool model_load(bool trust)
{
    // what is checked must stay as it is
    protect(MODEL_BASE >> BLOCK_BITS, MAIN_RAM_SIZE >> BLOCK_BITS);
    if (!read_header())
        return false;
    protect(MODEL_BASE >> BLOCK_BITS,
            (MODEL_BASE + model.total_bytes + (1u << BLOCK_BITS) - 1) >> BLOCK_BITS);
    const struct tensor none = {0}; // not every model has every tensor
    for (uint32_t i = 0; i < KIND_INPUT_NORM; i++)
        single[i] = none;
    for (uint32_t i = 0; i < IMAGE_MAX_LAYERS * PER_LAYER; i++)
        layered[i / PER_LAYER][i % PER_LAYER] = none;
    for (uint32_t i = 0; i < model.tensors; i++) {
        volatile const struct image_tensor *entry =
            (volatile const struct image_tensor *)(MAIN_RAM_BASE + MODEL_BASE + sizeof model) + i;
        uint32_t kind = entry->kind, layer = entry->layer, offset = entry->offset,
                 entry_words = entry->words;
        struct tensor *place =
            layer < (kind < KIND_INPUT_NORM ? 1 : model.layers) ? slot(kind, layer) : 0;
        if (!place || place->address || entry_words != image_expected_words(&model, kind) ||
            offset % TVU_BLOCK_BYTES || offset < model.header_bytes || offset > model.ddr_bytes ||
            (uint64_t)entry_words * TVU_WORD_BYTES > model.ddr_bytes - offset ||
            !scale_fits(((volatile const uint32_t *)entry)[6])) {
            fault_raise(ERROR_IMAGE, i);
            return false;
        }
        place->address = MODEL_BASE + entry->offset;
        model_words[kind] = entry_words;
        place->scale = ((volatile const uint32_t *)entry)[6];
        if (trust)
            continue;
        tvu_stream(place->address, entry_words);
        tvu_check(1, entry_words);
        if (!tvu_wait())
            return false;
        if (tvu_sget(1) != entry->checksum) {
            fault_raise(ERROR_CHECKSUM, i);
            return false;
        }
        link_progress(i, model.tensors);
        uart_serve();
        if (i % 16 == 0) {
            uint32_t progress[2] = {i, model.tensors};
            link_send(EVENT_PROGRESS, progress, 2);
        }
    }
    if (!complete()) {
        fault_raise(ERROR_IMAGE, model.tensors);
        return false;
    }
    model_loaded = transformer_ready();
    slots_reset();
    return model_loaded;
}

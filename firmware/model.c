#include "model.h"

#include "board.h"
#include "fault.h"
#include "link.h"
#include <generated/tvu.h>

#define PER_LAYER (KIND_COUNT - KIND_INPUT_NORM)

struct image_header model;
bool model_loaded;
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
    return *ddr_word(ddr_physical(slot(kind, 0)->address + 4 * index));
}

// Limits of this firmware and machine; 0 if the model fits, else which limit it breaks.
static uint32_t broken_limit(const struct image_header *h)
{
    if (h->layers == 0 || h->layers > IMAGE_MAX_LAYERS)
        return 1;
    if (h->total_bytes > MAIN_RAM_SIZE - MODEL_BASE)
        return 2;
    if (h->kv_heads == 0 || h->heads % h->kv_heads || h->heads / h->kv_heads > TVU_BYTE_VECTORS)
        return 3;
    if (h->hidden % 32 || h->head_dim % 32 || h->intermediate % TVU_LANES || h->vocab % TVU_LANES || !h->hidden ||
        !h->head_dim || !h->intermediate || !h->vocab || !h->context)
        return 4;
    if (h->stop_count > 4 || h->rank_levels == 0 || h->rank_levels > TVU_RANK_LEVELS)
        return 5;
    if (h->intermediate > TVU_ELEMENTS || h->context > TVU_ELEMENTS)
        return 6; // of one vector operation; the pick memory holds more
    if (h->hidden > TVU_ROW_WORDS * TVU_WORD_BYTES || h->head_dim > TVU_ACT_WORDS * TVU_WORD_BYTES)
        return 7; // words of an int8 product
    return 0;
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
    if (model.magic != IMAGE_MAGIC || model.version != IMAGE_VERSION || model.tensors > KIND_COUNT * IMAGE_MAX_LAYERS) {
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
    return !limit;
}

bool model_load(bool trust)
{
    if (!read_header())
        return false;
    const struct tensor none = {0}; // not every model has every tensor
    for (uint32_t i = 0; i < KIND_INPUT_NORM; i++)
        single[i] = none;
    for (uint32_t i = 0; i < IMAGE_MAX_LAYERS * PER_LAYER; i++)
        layered[i / PER_LAYER][i % PER_LAYER] = none;
    for (uint32_t i = 0; i < model.tensors; i++) {
        volatile const struct image_tensor *entry =
            (volatile const struct image_tensor *)(MAIN_RAM_BASE + MODEL_BASE + sizeof model) + i;
        struct tensor *place = slot(entry->kind, entry->layer);
        if (!place || entry->words == 0) {
            fault_raise(ERROR_IMAGE, i);
            return false;
        }
        place->address = MODEL_BASE + entry->offset;
        place->words = entry->words;
        place->scale = ((volatile const uint32_t *)entry)[6];
        if (trust)
            continue;
        tvu_stream(place->address, place->words);
        tvu_check(1, place->words);
        if (!tvu_wait())
            return false;
        if (tvu_sget(1) != entry->checksum) {
            fault_raise(ERROR_CHECKSUM, i);
            return false;
        }
        if (i % 16 == 0) {
            uint32_t progress[2] = {i, model.tensors};
            link_send(EVENT_PROGRESS, progress, 2);
        }
    }
    model_loaded = true;
    return true;
}

// The model image in DDR: its header, and where each tensor lies.
#pragma once

#include <generated/image.h>
#include <stdbool.h>
#include <stdint.h>

struct tensor {
    uint32_t address; // linear DDR address; 0: the model has none
    uint32_t scale;   // float32 bits
};

extern struct image_header model;
extern bool model_loaded;
// Stream words of a tensor of each kind that the model has.
extern uint32_t model_words[KIND_COUNT];

// Reads and checks the header at MODEL_BASE, then, unless told to trust it, the checksum of every
// tensor. Raises a fault if something is wrong. From then on, until model_unload, hosts cannot
// write to the model's memory, nor to that of its KV cache.
bool model_load(bool trust);
void model_unload(void);

const struct tensor *model_tensor(enum image_kind kind, uint32_t layer);
// One float of a float tensor, read by the CPU.
uint32_t model_float_bits(enum image_kind kind, uint32_t index);

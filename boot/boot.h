// What the parts of the boot stub share. It runs on the first ARM core, from on-chip memory, with
// caches and MMU off: what it writes is there for other masters at once.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "boot/board.h"

// hardware.c. `set`: waits until a bit of `mask` is set, else until all are clear; false if that
// took longer than `milliseconds`.
uint32_t hw_read(uint32_t address);
void hw_write(uint32_t address, uint32_t value);
bool hw_wait(uint32_t address, uint32_t mask, bool set, uint32_t milliseconds);
void hw_start_timer(void);
void hw_delay(uint32_t milliseconds);
_Noreturn void hw_park(void); // both cores

// console.c: the UART of the processing system, if the board has one.
void say(const char *text);
void say_number(uint32_t number);
void say_hex(uint32_t word);
void say_drained(void);

// start.c: the steps of generated ps7/ps7_init.h.
bool start_processing_system(void);
void start_fabric(void);
bool memory_works(void);

// sd.c: blocks of 512 bytes to an address that is a multiple of four.
#define SD_BLOCK 512u
bool sd_start(void);
bool sd_read(uint32_t block, uint32_t count, uint32_t address);

// card.c: one file of the card at a time. What fails says why.
bool card_open(void);
bool file_open(const char *name, bool needed);
uint32_t file_bytes(void);
bool file_read(void *to, uint32_t count);
bool file_seek(uint32_t offset);

// bitstream.c, model.c
bool bitstream_there(void);
bool bitstream_load(void);
void bitstream_await(void); // until somebody else has loaded one
void model_load(void);

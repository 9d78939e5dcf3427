// What gcc calls even in freestanding code.
#include <stddef.h>
#include <stdint.h>

void *memset(void *to, int value, size_t count);
void *memset(void *to, int value, size_t count)
{
    uint8_t *bytes = to;
    while (count--)
        *bytes++ = (uint8_t)value;
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t count);
void *memcpy(void *restrict to, const void *restrict from, size_t count)
{
    uint8_t *bytes = to;
    const uint8_t *source = from;
    while (count--)
        *bytes++ = *source++;
    return to;
}

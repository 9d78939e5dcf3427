// MODEL.IMG, as `bitnet-host convert` wrote it, into memory. Whether its contents are right is the
// firmware's to find out, which has checksums of all tensors.
#include "boot.h"

#define NAME "MODEL.IMG"
#define STEP (32u << 20) // from report to report

static void wrong(const char *why)
{
    say(NAME);
    say(why);
}

static uint32_t crc32(const uint8_t *at, uint32_t count)
{
    uint32_t crc = ~0u;
    while (count--) {
        crc ^= *at++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static bool fits(struct image_file *head)
{
    uint32_t sum = head->head_crc;
    head->head_crc = 0;
    if (head->magic != IMAGE_FILE_MAGIC || sum != crc32((uint8_t *)head, sizeof *head))
        wrong(" is not a model image: make one with `bitnet-host convert`\n");
    else if (head->version != IMAGE_FILE_VERSION ||
             (sizeof *head + head->text_bytes) % IMAGE_FILE_BLOCK)
        wrong(" is of another version of bitnet-host: convert the model again\n");
    else if (head->text_bytes > file_bytes() ||
             head->ddr_bytes != file_bytes() - sizeof *head - head->text_bytes)
        wrong(" is not whole: copy it again\n");
    else if (head->ddr_bytes > BOARD_DDR_BYTES - MODEL_BASE)
        wrong(" is larger than this board's memory: convert a smaller model\n");
    else
        return true;
    return false;
}

static void progress(uint32_t done, uint32_t all)
{
    say("\r" NAME ": ");
    say_number(done >> 20);
    say(" of ");
    say_number(all >> 20);
    say(" MB");
}

void model_load(void)
{
    static struct image_file head;
    if (!file_open(NAME, false)) {
        say("without " NAME "; bitnet-host uploads a model\n");
        return;
    }
    if (file_bytes() < sizeof head) {
        wrong(" is not a model image: make one with `bitnet-host convert`\n");
        return;
    }
    if (!file_read(&head, sizeof head) || !fits(&head))
        return;
    uint32_t all = (uint32_t)head.ddr_bytes, done = 0;
    if (!file_seek(sizeof head + head.text_bytes))
        return;
    while (done < all) {
        uint32_t now = all - done < STEP ? all - done : STEP;
        progress(done, all);
        if (!file_read((void *)(uintptr_t)(MODEL_BASE + done), now))
            return;
        done += now;
    }
    progress(done, all);
    say("\n");
}

// Files of the card, by way of FatFs.
#include "boot.h"
#include "ff.h"
#include "diskio.h"

static FATFS volume;
static FIL file;
static const char *name;

static DSTATUS ready(BYTE drive)
{
    (void)drive;
    return 0;
}

static DRESULT read(BYTE drive, BYTE *to, LBA_t block, UINT count)
{
    (void)drive;
    uint32_t address = (uint32_t)(uintptr_t)to;
    if (address % 4)
        return RES_PARERR; // the DMA moves words
    return sd_read(block, count, address) ? RES_OK : RES_ERROR;
}

static DISKOPS disk = {.disk_initialize = ready, .disk_status = ready, .disk_read = read};

static bool failed(const char *what, const char *why)
{
    say(what);
    say(why);
    return false;
}

bool card_open(void)
{
    if (!sd_start())
        return failed("no SD card answers", ": put in the one with BOOT.BIN and BITNET.BIT\n");
    FfDiskOps = &disk;
    if (f_mount(&volume, "", 1) != FR_OK)
        return failed("the SD card has no FAT file system",
                      " that can be read: format it with FAT32, not exFAT\n");
    return true;
}

bool file_open(const char *wanted, bool needed)
{
    name = wanted;
    FRESULT result = f_open(&file, name, FA_READ);
    if (result == FR_OK)
        return true;
    if (result != FR_NO_FILE)
        return failed(name, " cannot be read: the card or its file system is damaged\n");
    if (needed)
        failed(name, " is not on the SD card: copy it there\n");
    return false;
}

uint32_t file_bytes(void)
{
    return f_size(&file);
}

bool file_read(void *to, uint32_t count)
{
    UINT got;
    if (f_read(&file, to, count, &got) == FR_OK && got == count)
        return true;
    say("\n");
    return failed(name, " cannot be read to its end: the card or its file system is damaged\n");
}

bool file_seek(uint32_t offset)
{
    if (f_lseek(&file, offset) == FR_OK)
        return true;
    return failed(name, " cannot be read to its end: the card or its file system is damaged\n");
}

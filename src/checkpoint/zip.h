/* zip.h - the entries of a zip file that are stored as they are, so that they can be read in place.
 *
 * Compressed or encrypted entries and archives in several parts are refused.
 * Checked: the directory lies right in front of the end record(s), its entries
 * fill it, every entry lies in front of it, agrees with its local header and
 * overlaps no other, no name is there twice.  Checksums are not looked at: they
 * would cost a read of all weights, and safetensors has none either.
 * Format: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 to 4.5. */
#ifndef CHECKPOINT_ZIP_H
#define CHECKPOINT_ZIP_H
#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"

struct zip_entry {
    const char *name;
    uint64_t header;     /* where its local header begins, from the start of the file ... */
    uint64_t off, bytes; /* ... and its data */
};

struct zip { /* sorted by name */
    struct zip_entry *v;
    size_t n;
};

/* Everything is in the arena. */
int zip_read(struct zip *z, int fd, const char *path, uint64_t file_bytes, struct arena *a, struct err *e);
const struct zip_entry *zip_find(const struct zip *z, const char *name); /* NULL: not there */

#endif

/* archive.h - what inspect says of an archive, as text. */
#ifndef CLI_ARCHIVE_H
#define CLI_ARCHIVE_H
#include <jansson.h>

void archive_show(const json_t *description);

#endif

/* export.h - an export with all that surrounds it, for the command and for the names that stand in for others. */
#ifndef CLI_EXPORT_H
#define CLI_EXPORT_H
#include <stddef.h>
#include "cli/options.h"

#define OPTION_ROW_RESUME                                                                                              \
    {                                                                                                                  \
        "resume", .kind = OPTION_FLAG, .place = offsetof(struct args, wb.resume),                                      \
                  .help = "go on from what an interrupted export left in OUT.partial, with the same options and "      \
                          "weights; threads, "                                                                         \
                          "memory and engine may differ. Where there is nothing, begin"                                \
    }

/* a->wb holds what to do. Returns the exit status. */
int export_run(struct args *a);
/* Checks a->wb.device and leaves in it what the library is to use; else the exit status. */
int export_device(struct args *a);

#endif

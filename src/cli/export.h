/* export.h - an export with all that surrounds it, for the command and for the names that stand in for others. */
#ifndef CLI_EXPORT_H
#define CLI_EXPORT_H
#include "cli/options.h"

/* a->wb holds what to do. Returns the exit status. */
int export_run(struct args *a);
/* Checks a->wb.device and leaves in it what the library is to use; else the exit status. */
int export_device(struct args *a);

#endif

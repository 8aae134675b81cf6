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

/* Where tensors are converted. */
#define OPTION_ROWS_DEVICE                                                                                             \
    { "device",                                                                                                        \
      .kind = OPTION_TEXT,                                                                                             \
      .place = offsetof(struct args, wb.device),                                                                       \
      .value = "cpu|auto[:LIST]|cuda|cuda:LIST|cuda:all",                                                              \
      .initial = "cpu",                                                                                                \
      .help = "where tensors are converted; the output is the same, but for merged LoRA weights, which may be one "    \
              "off in the last place of fp16. cuda: the first GPU; cuda:0,2: those of these numbers; cuda:all: every " \
              "one; auto: the same as cuda:all, auto:0,2 as cuda:0,2, or the CPU where there is none" },               \
        { "gpu-feed",                                                                                                  \
          .kind = OPTION_CHOICE,                                                                                       \
          .place = offsetof(struct args, wb.gpu_feed),                                                                 \
          .value = "auto|direct|nccl",                                                                                 \
          .initial = "auto",                                                                                           \
          .help = "of several GPUs. direct: each gets its sources from the host; nccl: the first gets all, and sends " \
                  "the others theirs, for machines whose storage is next to one GPU; auto: direct" },                  \
        { "gpu-memory",                                                                                                \
          .kind = OPTION_SIZE,                                                                                         \
          .place = offsetof(struct args, wb.gpu_memory),                                                               \
          .value = "SIZE",                                                                                             \
          .initial = "what is free, less a margin",                                                                    \
          .least = 16u << 20,                                                                                          \
          .most = UINT64_MAX,                                                                                          \
          .help = "all buffers on each GPU; at least 16M" },                                                           \
    {                                                                                                                  \
        "strict-device", .kind = OPTION_FLAG, .place = offsetof(struct args, wb.strict_device),                        \
                         .help = "stop when a GPU fails, in place of going on with the others or the CPU"              \
    }

#endif

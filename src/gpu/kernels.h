/* kernels.h - the machine code in the plugin; cmake/kernels.cmake makes kernels.c of what nvcc made. */
#ifndef GPU_KERNELS_H
#define GPU_KERNELS_H
#include <stddef.h>

struct kernel_entry {
    const char *name;
    unsigned file; /* of kernel_files, where it is */
};

extern const struct kernel_entry kernel_entries[];
extern const size_t kernel_entries_n;
extern const unsigned char *const kernel_files[]; /* fatbins */
extern const size_t kernel_files_n;

#endif

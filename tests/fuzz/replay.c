/* replay.c - runs a fuzz target on every file of the folders given, as an ordinary test.
 * Each input is copied to the end of a block of its own, so that a sanitizer sees the first byte too many. */
#include "fuzz.h"
#include <dirent.h>
#include <string.h>

enum { INPUT_MOST = 1 << 20 };

static int run_file(const char *path)
{
    uint8_t *most = malloc(INPUT_MOST), *input;
    FILE *f = fopen(path, "rb");
    size_t n;

    if (!f || !most) {
        perror(path);
        exit(1);
    }
    n = fread(most, 1, INPUT_MOST, f);
    fclose(f);
    if (!(input = malloc(n ? n : 1)))
        abort();
    memcpy(input, most, n);
    free(most);
    LLVMFuzzerTestOneInput(input, n);
    free(input);
    return 1;
}

static int run_folder(const char *folder)
{
    DIR *d = opendir(folder);
    struct dirent *entry;
    char path[4096];
    int n = 0;

    if (!d) {
        perror(folder);
        exit(1);
    }
    while ((entry = readdir(d))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        n += run_file(path);
    }
    closedir(d);
    return n;
}

int main(int argc, char **argv)
{
    int n = 0;

    for (int i = 1; i < argc; i++)
        n += run_folder(argv[i]);
    printf("%d inputs\n", n);
    return n ? 0 : 1; /* a corpus that is not there tests nothing */
}

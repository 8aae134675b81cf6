/* settings.c - the environment: settings, calls and operations that are to fail, counts. */
#include "state.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NAMES = 128, FAULTS = 32 };

struct settings settings = { .devices = 2, .slow = -1, .deadlock_ms = 1500, .memory = 256 << 20, .schedule = LAZY };

static struct fault {
    char name[48];
    int device, code; /* device -1: any */
    uint64_t at, seen;
} faults[FAULTS];
static size_t faults_n;

static struct count {
    const char *name;
    uint64_t n;
} counts[NAMES];
static size_t counts_n;

static _Noreturn void refuse(const char *name, const char *value, const char *want)
{
    fprintf(stderr, "simcuda: %s is '%s', expected %s\n", name, value, want);
    _exit(2);
}

static uint64_t number(const char *name, uint64_t otherwise, uint64_t most)
{
    static const char units[] = "KMG";
    const char *text = getenv(name), *unit;
    char *end;
    uint64_t v;

    if (!text)
        return otherwise;
    v = strtoull(text, &end, 10);
    unit = *end && end != text ? strchr(units, *end) : NULL;
    if (unit && !end[1])
        v <<= 10 * (unit - units + 1), end++;
    if (end == text || *end || v > most)
        refuse(name, text, "a number that makes sense");
    return v;
}

static void read_schedule(void)
{
    const char *text = getenv("SIMCUDA_SCHEDULE");
    int end = -1;
    unsigned long long seed = 0;

    if (!text || !strcmp(text, "lazy"))
        return;
    settings.schedule = EAGER;
    if (!strcmp(text, "eager"))
        return;
    sscanf(text, "random:%llu%n", &seed, &end);
    if (end < 0 || text[end])
        refuse("SIMCUDA_SCHEDULE", text, "lazy, eager or random:SEED");
    settings.schedule = RANDOM;
    settings.seed = seed * 2654435761u + 1;
}

/* NAME[@DEVICE]:N=CODE */
static bool read_fault(char *text, struct fault *f)
{
    char *colon = strrchr(text, ':'), *device;
    unsigned long long at;
    int end = -1;

    if (!colon || sscanf(colon, ":%llu=%d%n", &at, &f->code, &end) != 2 || colon[end] || !at || !f->code)
        return false;
    *colon = 0;
    device = strchr(text, '@');
    f->device = device ? atoi(device + 1) : -1;
    if (device)
        *device = 0;
    f->at = at;
    return snprintf(f->name, sizeof f->name, "%s", text) < (int)sizeof f->name && *f->name;
}

static void read_faults(void)
{
    const char *text = getenv("SIMCUDA_FAIL");
    char *copy = text ? strdup(text) : NULL, *rest = NULL;

    for (char *t = copy ? strtok_r(copy, ",", &rest) : NULL; t; t = strtok_r(NULL, ",", &rest))
        if (faults_n == FAULTS || !read_fault(t, &faults[faults_n++]))
            refuse("SIMCUDA_FAIL", text, "NAME[@DEVICE]:N=CODE, with commas between, 32 at most");
    free(copy);
}

void settings_read(void)
{
    settings.devices = (int)number("SIMCUDA_DEVICES", 2, SIM_DEVICES);
    settings.memory = number("SIMCUDA_MEMORY", settings.memory, (uint64_t)16 << 30);
    settings.small = number("SIMCUDA_SMALL", settings.memory, settings.memory);
    settings.slow = getenv("SIMCUDA_SLOW") ? (int)number("SIMCUDA_SLOW", 0, SIM_DEVICES - 1) : -1;
    settings.deadlock_ms = (int)number("SIMCUDA_DEADLOCK_MS", 1500, 1000000);
    read_schedule();
    read_faults();
}

static void count(const char *name)
{
    size_t i = 0;

    while (i < counts_n && strcmp(counts[i].name, name) != 0)
        i++;
    if (i == NAMES)
        return;
    if (i == counts_n)
        counts[counts_n++].name = name;
    counts[i].n++;
}

int fault_now(const char *name, int device)
{
    int code = 0;

    count(name);
    for (struct fault *f = faults; f < faults + faults_n; f++)
        if (!strcmp(f->name, name) && (f->device < 0 || f->device == device) && ++f->seen == f->at)
            code = f->code;
    return code;
}

void fault_counts(void)
{
    const char *path = getenv("SIMCUDA_COUNT");
    FILE *f = path ? fopen(path, "w") : NULL;

    if (path && !f)
        sim_report("cannot write SIMCUDA_COUNT=%s", path);
    for (size_t i = 0; f && i < counts_n; i++)
        fprintf(f, "%s %llu\n", counts[i].name, (unsigned long long)counts[i].n);
    if (f)
        fclose(f);
}

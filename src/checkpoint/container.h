/* container.h - what the parts of this folder share.
 *
 * A container is a file format that holds tensors: one file with a `read`
 * function, and one row of containers[].  Everything around it is the same for
 * all of them: which files of a directory to take (choose.c), an index over
 * several files (index.c), Git LFS pointers, sorting, duplicates
 * (checkpoint.c).  Faults are gathered over all files before any is reported. */
#ifndef CHECKPOINT_CONTAINER_H
#define CHECKPOINT_CONTAINER_H
#include "base/str.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/listing.h"

struct tensors { /* grows while files are read */
    struct tensor *v;
    size_t n, cap;
};
void tensors_add(struct tensors *list, const struct tensor *t);

enum { CONTAINER_NEVER = 4 };
struct container {
    const char *name;
    const char *single; /* the usual name where one file holds all; with ".index.json" behind: the index */
    const char *suffix; /* of its files */
    const char *never[CONTAINER_NEVER]; /* names with that suffix that are not the model: a LoRA adapter, ... */
    /* Appends the tensors of an open file; names in the arena, `file` left 0. */
    int (*read)(int fd, const char *path, uint64_t file_bytes, struct tensors *out, struct arena *a, struct err *e);
};

extern const struct container containers[];
extern const size_t containers_n;

int safetensors_read(int fd, const char *path, uint64_t file_bytes, struct tensors *out, struct arena *a,
                     struct err *e);
int torch_zip_read(int fd, const char *path, uint64_t file_bytes, struct tensors *out, struct arena *a, struct err *e);
/* The halves of a safetensors file, on memory: the length that a file's first 8 bytes give, checked against the file's
 * size, ... */
int safetensors_header_bytes(const unsigned char first[8], const char *path, uint64_t file_bytes, size_t *n,
                             struct err *e);
/* ... and the JSON text behind them. */
int safetensors_header(const char *text, size_t n, const char *path, uint64_t file_bytes, struct tensors *out,
                       struct arena *a, struct err *e);

/* Several faults, one line each; a lone one is passed on as it is. */
struct faults {
    const char *dir; /* in front of every path: said once */
    struct str lines;
    struct err first;
    size_t n, shown;
};
void faults_add(struct faults *f, const struct err *fault);
void faults_addf(struct faults *f, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* ERR_FORMAT */
/* 0 when there were none. Releases. */
int faults_raise(struct faults *f, struct err *e);

/* Text of a JSON file: refused when it is a Git LFS pointer. NULL on failure; the caller owns the result. */
json_t *read_json(const char *path, size_t most, struct err *e);
/* Opens a file for reading and refuses Git LFS pointers, broken links and what is no regular file. */
int open_input(const char *path, struct file_id *id, struct err *e);

/* An index: tensor name -> file, as a JSON object of strings, checked. */
struct index {
    const char *path;
    json_t *json, *map;
    struct listing files; /* that it names; in the arena */
};
int index_open(struct index *ix, const char *path, struct arena *a, struct err *e);
/* Does every tensor of the index lie where it says? Notes tensors that it does not name. */
void index_compare(const struct index *ix, const struct checkpoint *c, struct faults *f, struct notes *notes);
void index_close(struct index *ix);

/* Which files of a directory hold the weights. */
struct choice {
    const char *prefer; /* wins where it is there, whatever lies beside it; may be NULL */
    const struct container *container;
    struct listing files;
    struct index index; /* index.map is NULL: there is none */
};
/* Faults go to `f`; then `files` still lists what can be looked at for more faults. */
void choose_files(struct choice *w, const char *dir, const struct listing *l, struct arena *a, struct notes *notes,
                  struct faults *f);

#endif

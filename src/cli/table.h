/* table.h - rows of text in aligned columns, under a title; a table without rows shows nothing.
 *
 *     struct table t = { "tensors", .head = "tensor|shape|>bytes" };   ('>': to the right)
 *     table_cell(&t, "%s", name); ...                                  row after row
 *     table_print(&t, stdout);                                         prints and releases */
#ifndef CLI_TABLE_H
#define CLI_TABLE_H
#include <stddef.h>
#include <stdio.h>

struct table {
    const char *title, *head;
    char **cell;
    size_t n, cap;
};

void table_cell(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Each line indented by two; the head is left out where its names are empty ("||>"). */
void table_print(struct table *t, FILE *f);

#endif

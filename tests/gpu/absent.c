/* absent.c - a library that a plugin is linked to and that is not found when it is loaded. */
int absent(void);
int absent(void) { return 0; }

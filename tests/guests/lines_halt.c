/* The lines of lines.c, then a halt for ever. */
#define THEN_HALT
#include "lines.c"

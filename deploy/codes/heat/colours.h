/* A field of numbers as a picture. */
#ifndef HEAT_COLOURS_H
#define HEAT_COLOURS_H

#include <stddef.h>

/* The values [y][x], row 0 at the bottom, as a PNG of this size; low and high are the ends of the colours. Free it;
 * NULL when it cannot be made. */
void *colours_png(const float *values, long nx, long ny, double low, double high, long width, long height,
                  size_t *bytes);

#endif

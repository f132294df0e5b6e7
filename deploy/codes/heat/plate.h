/* The plate: the heat equation u_t = a (u_xx + u_yy) on a rectangle with edges of a given temperature.
 *
 * Explicit in time, central in space: second order in space and, at a fixed dt/dx2, in all. With a stable step each new
 * value is a mean of old ones with weights >= 0, so no temperature ever leaves the range of the start and the edges.
 */
#ifndef HEAT_PLATE_H
#define HEAT_PLATE_H

#include <stdbool.h>

#include "input.h"

typedef struct {
    long nx, ny;
    double dx, dy, dt;
    double rx, ry;      /* a dt/dx2 and a dt/dy2 */
    double low, high;   /* of start and edges */
    double *now, *next; /* [y][x]; after a step, next holds the values before it */
} Plate;

typedef struct {
    double highest; /* K */
    double heat;    /* the integral of the temperature, K m2 */
    double change;  /* root mean square of the last step's du/dt, K/s; NAN before the first */
} Summary;

/* The plate at the start; false when there is no memory for it. */
bool plate_start(Plate *plate, const Input *input);

/* So many steps on. The result does not depend on the number of threads. */
void plate_advance(Plate *plate, long steps, int threads);

Summary plate_summary(const Plate *plate, bool has_advanced);

#endif

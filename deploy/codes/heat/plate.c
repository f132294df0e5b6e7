/* The numerics: plate.h says which. */
#include "plate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PI 3.14159265358979323846
#define SPOT_RADIUS 0.15 /* of the shorter side */

static double start_value(const Input *input, double x, double y) {
    double half_width = SPOT_RADIUS * fmin(input->length_x, input->length_y);
    double dx = (x - 0.35 * input->length_x) / half_width, dy = (y - 0.6 * input->length_y) / half_width;
    switch (input->start) {
    case START_SINE:
        return input->amplitude * sin(PI * (double)input->mode_x * x / input->length_x) *
               sin(PI * (double)input->mode_y * y / input->length_y);
    case START_SPOT:
        return input->amplitude * exp(-dx * dx - dy * dy);
    default:
        return input->amplitude;
    }
}

static double cell_at_start(const Plate *plate, const Input *input, long i, long j) {
    if (i == 0) {
        return input->left;
    }
    if (i == plate->nx - 1) {
        return input->right;
    }
    if (j == 0) {
        return input->bottom;
    }
    if (j == plate->ny - 1) {
        return input->top;
    }
    return start_value(input, (double)i * plate->dx, (double)j * plate->dy);
}

bool plate_start(Plate *plate, const Input *input) {
    *plate = (Plate){.nx = input->nx, .ny = input->ny, .dt = input->dt, .low = INFINITY, .high = -INFINITY};
    plate->dx = input->length_x / (double)(plate->nx - 1);
    plate->dy = input->length_y / (double)(plate->ny - 1);
    plate->rx = input->diffusivity * plate->dt / (plate->dx * plate->dx);
    plate->ry = input->diffusivity * plate->dt / (plate->dy * plate->dy);
    size_t bytes = (size_t)(plate->nx * plate->ny) * sizeof(double);
    plate->now = malloc(bytes);
    plate->next = malloc(bytes);
    if (!plate->now || !plate->next) {
        return false;
    }
    for (long j = 0; j < plate->ny; j++) {
        for (long i = 0; i < plate->nx; i++) {
            double value = cell_at_start(plate, input, i, j);
            plate->now[j * plate->nx + i] = value;
            plate->low = fmin(plate->low, value);
            plate->high = fmax(plate->high, value);
        }
    }
    memcpy(plate->next, plate->now, bytes); /* the edges, for good */
    return true;
}

static void advance_row(const Plate *plate, const double *now, double *next, long j) {
    const double *row = now + j * plate->nx, *below = row - plate->nx, *above = row + plate->nx;
    double *out = next + j * plate->nx, rx = plate->rx, ry = plate->ry;
    for (long i = 1; i < plate->nx - 1; i++) {
        out[i] = row[i] + rx * (row[i - 1] - 2 * row[i] + row[i + 1]) + ry * (below[i] - 2 * row[i] + above[i]);
    }
}

void plate_advance(Plate *plate, long steps, int threads) {
    double *now = plate->now, *next = plate->next;
#pragma omp parallel num_threads(threads) firstprivate(now, next)
    for (long step = 0; step < steps; step++) {
#pragma omp for schedule(static)
        for (long j = 1; j < plate->ny - 1; j++) {
            advance_row(plate, now, next, j);
        }
        double *before = now; /* every thread swaps its own two pointers, behind the loop's barrier */
        now = next;
        next = before;
    }
    if (steps % 2) {
        plate->now = next;
        plate->next = now;
    }
}

Summary plate_summary(const Plate *plate, bool has_advanced) {
    double highest = -INFINITY, sum = 0, squares = 0;
    for (long j = 0; j < plate->ny; j++) { /* in one order, whatever the number of threads */
        for (long i = 0; i < plate->nx; i++) {
            double value = plate->now[j * plate->nx + i], step = value - plate->next[j * plate->nx + i];
            double weight = (i % (plate->nx - 1) ? 1 : 0.5) * (j % (plate->ny - 1) ? 1 : 0.5);
            highest = fmax(highest, value);
            sum += weight * value;
            squares += step * step;
        }
    }
    double change = sqrt(squares / (double)(plate->nx * plate->ny)) / plate->dt;
    return (Summary){highest, sum * plate->dx * plate->dy, has_advanced ? change : NAN};
}

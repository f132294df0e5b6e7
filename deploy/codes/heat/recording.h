/* heat.h5 from the reader's side: only what the writer has committed, also while it writes. */
#ifndef HEAT_RECORDING_H
#define HEAT_RECORDING_H

#include <hdf5.h>
#include <stdbool.h>

/* Called when the file is damaged, foreign or no file; says why and does not return. */
typedef void Damaged(const char *text);

typedef struct {
    hid_t file, temperature, history;
    long steps, every;
    double dt, length_x, length_y, low, high;
    long nx, ny;
    long count; /* committed frames, and rows of the history */
    Damaged *damaged;
} Recording;

/* Open the file of this run directory; false when there is none yet. */
bool recording_open(Recording *recording, const char *run, Damaged *damaged);

/* Rows [0, count) of the history, COLUMNS numbers each; free it. */
double *recording_rows(const Recording *recording, long first, long count);

/* The temperatures [y][x] of a committed frame; free it. */
float *recording_frame(const Recording *recording, long index);

#endif

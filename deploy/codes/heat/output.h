/* Writes heat.h5 (layout.h) so that it can be read at any moment. */
#ifndef HEAT_OUTPUT_H
#define HEAT_OUTPUT_H

#include <hdf5.h>
#include <stdbool.h>

#include "input.h"
#include "plate.h"

typedef struct {
    hid_t file, temperature, history;
    hsize_t frames;
    float *buffer; /* one frame */
} Output;

/* Each of these returns false when the file cannot be written; HDF5 has printed why. */
bool output_open(Output *output, const Input *input, const Plate *plate);
bool output_append(Output *output, const Plate *plate, long step, Summary summary);
bool output_close(Output *output);

#endif

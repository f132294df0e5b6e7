/* The writer's side of layout.h.
 *
 * The file gets its name only once it can be read while it is written (SWMR: single writer, multiple readers): who
 * finds heat.h5 can open it. HDF5's file locks would add nothing to that, and shared file systems often have none.
 */
#include "output.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "layout.h"

#define DRAFT LAYOUT_FILE ".new"
enum { CHUNK_SIDE_MAX = 256, CHUNK_ROWS = 64 };

static bool put(hid_t file, const char *name, hid_t type, const void *value) {
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool is_put = attribute >= 0 && H5Awrite(attribute, type, value) >= 0;
    H5Aclose(attribute);
    H5Sclose(space);
    return is_put;
}

static bool put_attributes(hid_t file, const Input *input, const Plate *plate) {
    char format[LAYOUT_FORMAT_BYTES] = LAYOUT_FORMAT;
    hid_t text = H5Tcopy(H5T_C_S1);
    H5Tset_size(text, sizeof format);
    bool is_put = put(file, "format", text, format) && put(file, "steps", H5T_NATIVE_LONG, &input->steps) &&
                  put(file, "every", H5T_NATIVE_LONG, &input->every) && put(file, "dt", H5T_NATIVE_DOUBLE, &input->dt) &&
                  put(file, "diffusivity", H5T_NATIVE_DOUBLE, &input->diffusivity) &&
                  put(file, "length_x", H5T_NATIVE_DOUBLE, &input->length_x) &&
                  put(file, "length_y", H5T_NATIVE_DOUBLE, &input->length_y) &&
                  put(file, "low", H5T_NATIVE_DOUBLE, &plate->low) && put(file, "high", H5T_NATIVE_DOUBLE, &plate->high);
    H5Tclose(text);
    return is_put;
}

/* An empty dataset that grows along its first axis, by chunks of this shape, filled with NAN. */
static hid_t make_growing(hid_t file, const char *name, hid_t type, int rank, const hsize_t *shape, const hsize_t *chunk) {
    hsize_t sizes[3] = {0}, limits[3] = {H5S_UNLIMITED};
    const double nothing = NAN;
    for (int axis = 1; axis < rank; axis++) {
        sizes[axis] = limits[axis] = shape[axis];
    }
    hid_t space = H5Screate_simple(rank, sizes, limits), properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(properties, rank, chunk);
    H5Pset_fletcher32(properties);
    H5Pset_obj_track_times(properties, false);
    H5Pset_fill_value(properties, H5T_NATIVE_DOUBLE, &nothing);
    hid_t made = H5Dcreate2(file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    H5Pclose(properties);
    H5Sclose(space);
    return made;
}

/* Chunks cover a side without much of a rest: what stands over the edge is written too. */
static hsize_t chunk_side(hsize_t points) {
    hsize_t pieces = (points + CHUNK_SIDE_MAX - 1) / CHUNK_SIDE_MAX;
    return (points + pieces - 1) / pieces;
}

bool output_open(Output *output, const Input *input, const Plate *plate) {
    hsize_t ny = (hsize_t)plate->ny, nx = (hsize_t)plate->nx;
    hsize_t frame_chunk[3] = {1, chunk_side(ny), chunk_side(nx)};
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), properties = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_obj_track_times(properties, false); /* the same input gives the same bytes */
    H5Pset_libver_bounds(access, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
    H5Pset_file_locking(access, false, true);
    *output = (Output){.buffer = malloc(nx * ny * sizeof(float))};
    output->file = H5Fcreate(DRAFT, H5F_ACC_TRUNC, properties, access);
    H5Pclose(properties);
    H5Pclose(access);
    if (!output->buffer || output->file < 0 || !put_attributes(output->file, input, plate)) {
        return false;
    }
    output->temperature =
        make_growing(output->file, "temperature", H5T_IEEE_F32LE, 3, (hsize_t[]){0, ny, nx}, frame_chunk);
    output->history = make_growing(output->file, "history", H5T_IEEE_F64LE, 2, (hsize_t[]){0, COLUMNS},
                                   (hsize_t[]){CHUNK_ROWS, COLUMNS});
    return output->temperature >= 0 && output->history >= 0 && H5Fstart_swmr_write(output->file) >= 0 &&
           rename(DRAFT, LAYOUT_FILE) == 0;
}

/* One more along the first axis, and on disk when this returns. */
static bool append(hid_t dataset, hid_t type, hsize_t index, int rank, const hsize_t *shape, const void *values) {
    hsize_t sizes[3] = {index + 1, 1, 1}, start[3] = {index, 0, 0}, count[3] = {1, 1, 1};
    for (int axis = 1; axis < rank; axis++) {
        sizes[axis] = count[axis] = shape[axis];
    }
    if (H5Dset_extent(dataset, sizes) < 0) {
        return false;
    }
    hid_t there = H5Dget_space(dataset), here = H5Screate_simple(rank, count, NULL);
    bool is_written = H5Sselect_hyperslab(there, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
                      H5Dwrite(dataset, type, here, there, H5P_DEFAULT, values) >= 0 && H5Dflush(dataset) >= 0;
    H5Sclose(here);
    H5Sclose(there);
    return is_written;
}

bool output_append(Output *output, const Plate *plate, long step, Summary summary) {
    double row[COLUMNS] = {[COLUMN_STEP] = (double)step, [COLUMN_TIME] = (double)step * plate->dt,
                           [COLUMN_HIGHEST] = summary.highest, [COLUMN_HEAT] = summary.heat,
                           [COLUMN_CHANGE] = summary.change};
    for (long i = 0; i < plate->nx * plate->ny; i++) {
        output->buffer[i] = (float)plate->now[i];
    }
    hsize_t index = output->frames++; /* the history last: its row commits the frame */
    return append(output->temperature, H5T_NATIVE_FLOAT, index, 3,
                  (hsize_t[]){0, (hsize_t)plate->ny, (hsize_t)plate->nx}, output->buffer) &&
           append(output->history, H5T_NATIVE_DOUBLE, index, 2, (hsize_t[]){0, COLUMNS}, row);
}

bool output_close(Output *output) {
    bool is_closed = H5Dclose(output->temperature) >= 0;
    is_closed = H5Dclose(output->history) >= 0 && is_closed;
    is_closed = H5Fclose(output->file) >= 0 && is_closed;
    free(output->buffer);
    return is_closed;
}

/* The reader's side of layout.h.
 *
 * Nothing in a run directory is trusted. No link is followed, neither in the file system nor inside the file (HDF5 has
 * links, virtual datasets and raw data in other files, all of which would show somebody a file of the machine), no
 * filter is loaded from disk, and every size is checked before memory is asked for. What HDF5 itself makes of hostile
 * bytes concerns one process that answers one question (worker.c).
 *
 * A reader can meet a writer at a bad moment, the closing of the file above all (its size and its superblock do not
 * change at once). So what fails is tried again some hundredths of a second later before it is called damaged.
 */
#include "recording.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "answer.h"
#include "layout.h"

enum { TRIES = 6, PAUSE_US = 15000, METADATA_TRIES = 10 /* HDF5 waits longer before each */ };

/* A descriptor of the run's file, or -1 when there is none. */
static int open_plainly(const char *run, Damaged *damaged) {
    int directory = open(run, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory < 0) {
        refuse(UNREADABLE, "The run directory cannot be opened.");
    }
    int file = openat(directory, LAYOUT_FILE, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat status;
    if (file < 0 && errno == ENOENT) {
        close(directory);
        return -1;
    }
    if (file < 0 || fstat(file, &status) < 0 || !S_ISREG(status.st_mode)) {
        damaged("heat.h5 is not a plain file, or cannot be opened.");
    }
    close(directory);
    return file;
}

static bool get(hid_t file, const char *name, H5T_class_t class, hid_t type, void *value) {
    hid_t attribute = H5Aopen(file, name, H5P_DEFAULT), space = H5Aget_space(attribute), kind = H5Aget_type(attribute);
    bool is_got = attribute >= 0 && H5Sget_simple_extent_npoints(space) == 1 && H5Tget_class(kind) == class &&
                  H5Tis_variable_str(kind) <= 0 && H5Aread(attribute, type, value) >= 0;
    H5Tclose(kind);
    H5Sclose(space);
    H5Aclose(attribute);
    return is_got;
}

static bool has_our_format(hid_t file) {
    char format[LAYOUT_FORMAT_BYTES] = "";
    hid_t text = H5Tcopy(H5T_C_S1);
    H5Tset_size(text, sizeof format);
    bool is_ours = get(file, "format", H5T_STRING, text, format) && strcmp(format, LAYOUT_FORMAT) == 0;
    H5Tclose(text);
    return is_ours;
}

static bool get_attributes(Recording *recording) {
    hid_t file = recording->file;
    return has_our_format(file) && get(file, "steps", H5T_INTEGER, H5T_NATIVE_LONG, &recording->steps) &&
           get(file, "every", H5T_INTEGER, H5T_NATIVE_LONG, &recording->every) &&
           get(file, "dt", H5T_FLOAT, H5T_NATIVE_DOUBLE, &recording->dt) &&
           get(file, "length_x", H5T_FLOAT, H5T_NATIVE_DOUBLE, &recording->length_x) &&
           get(file, "length_y", H5T_FLOAT, H5T_NATIVE_DOUBLE, &recording->length_y) &&
           get(file, "low", H5T_FLOAT, H5T_NATIVE_DOUBLE, &recording->low) &&
           get(file, "high", H5T_FLOAT, H5T_NATIVE_DOUBLE, &recording->high) && recording->steps >= 1 &&
           recording->every >= 1 && recording->length_x > 0 && recording->length_y > 0 &&
           isfinite(recording->length_x / recording->length_y) && isfinite(recording->high - recording->low) &&
           recording->low <= recording->high;
}

/* A dataset of numbers in chunks of this very file; its sizes. */
static hid_t open_dataset(hid_t file, const char *name, int rank, hsize_t *sizes) {
    H5L_info_t link;
    if (H5Lget_info(file, name, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD) {
        return H5I_INVALID_HID;
    }
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT), properties = H5Dget_create_plist(dataset);
    hid_t space = H5Dget_space(dataset), kind = H5Dget_type(dataset);
    bool is_ours = H5Pget_layout(properties) == H5D_CHUNKED && H5Pget_external_count(properties) == 0 &&
                   H5Tget_class(kind) == H5T_FLOAT && H5Sget_simple_extent_ndims(space) == rank &&
                   H5Sget_simple_extent_dims(space, sizes, NULL) == rank;
    H5Pclose(properties);
    H5Sclose(space);
    H5Tclose(kind);
    return is_ours ? dataset : H5I_INVALID_HID;
}

/* Slabs of a dataset along its first axis. */
static bool read_slabs(hid_t dataset, hid_t type, int rank, const hsize_t *sizes, hsize_t first, void *values) {
    hsize_t start[3] = {first, 0, 0};
    hid_t there = H5Dget_space(dataset), here = H5Screate_simple(rank, sizes, NULL);
    bool is_read = H5Sselect_hyperslab(there, H5S_SELECT_SET, start, NULL, sizes, NULL) >= 0 &&
                   H5Dread(dataset, type, here, there, H5P_DEFAULT, values) >= 0;
    H5Sclose(here);
    H5Sclose(there);
    return is_read;
}

/* How many rows are committed: the last one may be an extent without its numbers. */
static bool count_rows(Recording *recording, hsize_t rows) {
    double row[COLUMNS];
    recording->count = (long)rows;
    for (int back = 0; back < 2 && recording->count > 0; back++, recording->count--) {
        if (!read_slabs(recording->history, H5T_NATIVE_DOUBLE, 2, (hsize_t[]){1, COLUMNS},
                        (hsize_t)recording->count - 1, row)) {
            return false;
        }
        if (row[COLUMN_STEP] >= 0) {
            return row[COLUMN_STEP] <= (double)recording->steps;
        }
    }
    return recording->count == 0;
}

static bool open_all(Recording *recording) {
    hsize_t rows[2], sizes[3];
    recording->history = open_dataset(recording->file, "history", 2, rows);
    if (recording->history < 0 || rows[0] > FRAMES_MAX || rows[1] != COLUMNS || !count_rows(recording, rows[0])) {
        return false;
    }
    recording->temperature = open_dataset(recording->file, "temperature", 3, sizes); /* after its frames were counted */
    recording->ny = (long)sizes[1];
    recording->nx = (long)sizes[2];
    return recording->temperature >= 0 && sizes[0] >= (hsize_t)recording->count && sizes[1] >= 3 && sizes[2] >= 3 &&
           sizes[1] <= CELLS_A_SIDE_MAX && sizes[2] <= CELLS_A_SIDE_MAX;
}

bool recording_open(Recording *recording, const char *run, Damaged *damaged) {
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG); /* a second try must see the file anew */
    H5Pset_file_locking(access, false, true);
    H5Pset_metadata_read_attempts(access, METADATA_TRIES);
    *recording = (Recording){.damaged = damaged};
    for (int try = 0; try < TRIES; try++) {
        int file = open_plainly(run, damaged);
        if (file < 0) {
            return false;
        }
        char path[40];
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
        recording->file = H5Fopen(path, H5F_ACC_RDONLY | H5F_ACC_SWMR_READ, access);
        close(file);
        if (recording->file >= 0 && get_attributes(recording) && open_all(recording)) {
            H5Pclose(access);
            return true;
        }
        H5Fclose(recording->file);
        usleep(PAUSE_US);
    }
    damaged("heat.h5 was not written by heat, or is damaged.");
    return false;
}

/* Slabs, or an error; a chunk that is being written when it is read has a wrong checksum then, and a right one soon. */
static void *read_or_refuse(const Recording *recording, hid_t dataset, hid_t type, int rank, const hsize_t *sizes,
                            long first) {
    size_t bytes = H5Tget_size(type);
    for (int axis = 0; axis < rank; axis++) {
        bytes *= sizes[axis];
    }
    void *values = malloc(bytes);
    for (int try = 0; values && try < TRIES; try++) {
        if (read_slabs(dataset, type, rank, sizes, (hsize_t)first, values)) {
            return values;
        }
        usleep(PAUSE_US);
        H5Drefresh(dataset);
    }
    recording->damaged("This part of heat.h5 is damaged.");
    return NULL;
}

double *recording_rows(const Recording *recording, long first, long count) {
    hsize_t sizes[2] = {(hsize_t)count, COLUMNS};
    return read_or_refuse(recording, recording->history, H5T_NATIVE_DOUBLE, 2, sizes, first);
}

float *recording_frame(const Recording *recording, long index) {
    hsize_t sizes[3] = {1, (hsize_t)recording->ny, (hsize_t)recording->nx};
    return read_or_refuse(recording, recording->temperature, H5T_NATIVE_FLOAT, 3, sizes, index);
}

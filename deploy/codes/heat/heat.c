/* heat [--threads N] INPUT.json: heat in a plate, watched while it flows. Writes heat.h5 into the working directory.
 *
 * Exit codes: 0 done, 1 the output cannot be written, 2 the input or the command line is refused. SIGTERM and SIGINT end
 * it within some hundredths of a second, the file closed and whole, and it dies of the signal that it got.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "input.h"
#include "output.h"
#include "plate.h"

enum { THREADS_MAX = 256, CANNOT_WRITE = 1, USAGE = 2 };
#define CELLS_A_BLOCK 2e7 /* computed between two looks at the signal: about 0.02 s */

static volatile sig_atomic_t ended_by;

static void note(int number) {
    ended_by = number;
}

static void listen_to(int number) {
    struct sigaction action = {.sa_handler = note};
    sigaction(number, &action, NULL);
}

static int threads_of(const char *word) {
    char *end;
    long threads = strtol(word, &end, 10);
    if (*end || end == word || threads < 1 || threads > THREADS_MAX) {
        fprintf(stderr, "heat: --threads must be a whole number from 1 to %d\n", THREADS_MAX);
        exit(USAGE);
    }
    return (int)threads;
}

static bool say_and_append(Output *output, const Plate *plate, long step) {
    Summary summary = plate_summary(plate, step > 0);
    printf("step %ld time %.6g highest %.6g heat %.6g change %.3g\n", step, (double)step * plate->dt, summary.highest,
           summary.heat, summary.change);
    fflush(stdout);
    return output_append(output, plate, step, summary);
}

static bool run(Output *output, Plate *plate, const Input *input, int threads) {
    long block_max = (long)(CELLS_A_BLOCK / (double)(plate->nx * plate->ny)) + 1, next_frame = input->every;
    bool is_written = say_and_append(output, plate, 0);
    for (long step = 0; is_written && step < input->steps && !ended_by;) {
        long until = next_frame < input->steps ? next_frame : input->steps;
        long block = until - step < block_max ? until - step : block_max;
        plate_advance(plate, block, threads);
        step += block;
        if (step == until) {
            is_written = say_and_append(output, plate, step);
            next_frame += input->every;
        }
    }
    return is_written && output_close(output);
}

int main(int count, char **words) {
    int threads = 1, at = 1;
    if (count > 2 && strcmp(words[1], "--threads") == 0) {
        threads = threads_of(words[2]);
        at = 3;
    }
    if (count != at + 1) {
        fprintf(stderr, "usage: heat [--threads N] INPUT.json\n");
        return USAGE;
    }
    Input input = input_read(words[at]);
    Plate plate;
    Output output;
    if (!plate_start(&plate, &input)) {
        fprintf(stderr, "heat: there is no memory for %ld x %ld points\n", input.nx, input.ny);
        return USAGE;
    }
    printf("heat: %ld x %ld points, %ld steps of %.6g s (stable up to %.6g s), %d threads\n", input.nx, input.ny,
           input.steps, input.dt, input_dt_max(&input), threads);
    listen_to(SIGTERM);
    listen_to(SIGINT);
    if (!output_open(&output, &input, &plate) || !run(&output, &plate, &input, threads)) {
        fprintf(stderr, "heat: heat.h5 cannot be written\n");
        _exit(CANNOT_WRITE); /* HDF5 crashes when it cleans up a file that it could not write (1.10.8) */
    }
    free(plate.now);
    free(plate.next);
    if (ended_by) {
        signal(ended_by, SIG_DFL);
        raise(ended_by);
    }
    return 0;
}

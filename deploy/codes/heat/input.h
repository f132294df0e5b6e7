/* The input of heat: a JSON object in a file, strictly checked. */
#ifndef HEAT_INPUT_H
#define HEAT_INPUT_H

typedef enum { START_SPOT, START_SINE, START_UNIFORM } Start;

typedef struct {
    long nx, ny;               /* grid points along each side, the edges among them */
    double length_x, length_y; /* m */
    double diffusivity;        /* m2/s */
    long steps, every;         /* time steps, and steps from frame to frame */
    double dt;                 /* s; 0 in the file: chosen */
    Start start;
    long mode_x, mode_y;       /* of the sine: half waves along each side */
    double amplitude;          /* of the start, K */
    double left, right, bottom, top; /* the edges are kept at these, K */
} Input;

/* Read and check the file; what is wrong with it ends the program with one line that names field and limit. */
Input input_read(const char *path);

/* The largest time step that is stable, s. */
double input_dt_max(const Input *input);

#endif

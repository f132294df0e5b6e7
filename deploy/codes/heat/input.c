/* Reads the input file. One table says each field's type, range and default; what it cannot say stands in check(). */
#include "input.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "layout.h"

enum { INPUT_BYTES_MAX = 1 << 20, PROBLEM_BYTES_MAX = 400, INPUT_REFUSED = 2 };
#define TEMPERATURE_MAX 1e6
#define SAFETY 0.9 /* of the largest stable time step, when the input does not say */

typedef enum { WHOLE, NUMBER } Kind;

typedef struct {
    const char *name;
    Kind kind;
    size_t offset;
    double least, most, preset; /* preset NAN: the field is required */
} Field;

#define AT(name) #name, WHOLE, offsetof(Input, name)
#define OF(name) #name, NUMBER, offsetof(Input, name)
static const Field FIELDS[] = {
    {AT(nx), 3, CELLS_A_SIDE_MAX, NAN},
    {AT(ny), 3, CELLS_A_SIDE_MAX, NAN},
    {OF(length_x), 1e-6, 1e6, 1},
    {OF(length_y), 1e-6, 1e6, 1},
    {OF(diffusivity), 1e-12, 1e6, NAN},
    {AT(steps), 1, 1e9, NAN},
    {AT(every), 1, 1e9, NAN},
    {OF(dt), 1e-30, 1e30, 0},
    {AT(mode_x), 1, CELLS_A_SIDE_MAX, 1},
    {AT(mode_y), 1, CELLS_A_SIDE_MAX, 1},
    {OF(amplitude), -TEMPERATURE_MAX, TEMPERATURE_MAX, 100},
    {OF(left), -TEMPERATURE_MAX, TEMPERATURE_MAX, 0},
    {OF(right), -TEMPERATURE_MAX, TEMPERATURE_MAX, 0},
    {OF(bottom), -TEMPERATURE_MAX, TEMPERATURE_MAX, 0},
    {OF(top), -TEMPERATURE_MAX, TEMPERATURE_MAX, 0},
};
enum { FIELDS_COUNT = sizeof FIELDS / sizeof *FIELDS };

static const char *const STARTS[] = {[START_SPOT] = "spot", [START_SINE] = "sine", [START_UNIFORM] = "uniform"};
enum { STARTS_COUNT = sizeof STARTS / sizeof *STARTS };

/* One line, whatever the words that the user's file put into it. */
static _Noreturn void refuse(const char *path, const char *format, ...) {
    char problem[PROBLEM_BYTES_MAX];
    va_list words;
    va_start(words, format);
    vsnprintf(problem, sizeof problem, format, words);
    va_end(words);
    for (char *c = problem; *c; c++) {
        if (iscntrl((unsigned char)*c)) {
            *c = ' ';
        }
    }
    fprintf(stderr, "heat: %s: %s\n", path, problem);
    exit(INPUT_REFUSED);
}

static json_t *load(const char *path) {
    static char text[INPUT_BYTES_MAX + 1];
    FILE *file = fopen(path, "r");
    if (!file) {
        refuse(path, "cannot be opened: %m");
    }
    size_t length = fread(text, 1, sizeof text, file);
    if (ferror(file)) {
        refuse(path, "cannot be read: %m");
    }
    fclose(file);
    if (length > INPUT_BYTES_MAX) {
        refuse(path, "must have at most %d bytes", INPUT_BYTES_MAX);
    }
    json_error_t error;
    json_t *object = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (!object) {
        refuse(path, "line %d: is not JSON: %s", error.line, error.text);
    }
    if (!json_is_object(object)) {
        refuse(path, "must be a JSON object, {...}");
    }
    return object;
}

static void refuse_unknown(const char *path, json_t *object) {
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value) {
        bool is_known = strcmp(name, "start") == 0;
        for (int i = 0; i < FIELDS_COUNT; i++) {
            is_known = is_known || strcmp(name, FIELDS[i].name) == 0;
        }
        if (!is_known) {
            refuse(path, "%.100s: is no field of this input", name);
        }
    }
}

static void take(const char *path, json_t *object, const Field *field, Input *input) {
    json_t *value = json_object_get(object, field->name);
    double number = json_number_value(value);
    if (!value) {
        if (isnan(field->preset)) {
            refuse(path, "%s: is missing", field->name);
        }
        number = field->preset;
    } else if (field->kind == WHOLE ? !json_is_integer(value) : !json_is_number(value)) {
        refuse(path, "%s: must be a %s", field->name, field->kind == WHOLE ? "whole number" : "number");
    } else if (!(number >= field->least && number <= field->most)) {
        refuse(path, "%s: must be from %.10g to %.10g, not %.10g", field->name, field->least, field->most, number);
    }
    void *place = (char *)input + field->offset;
    if (field->kind == WHOLE) {
        *(long *)place = (long)number;
    } else {
        *(double *)place = number;
    }
}

static Start take_start(const char *path, json_t *object) {
    json_t *value = json_object_get(object, "start");
    if (!value) {
        return START_SPOT;
    }
    for (int i = 0; i < STARTS_COUNT; i++) {
        if (json_is_string(value) && strcmp(json_string_value(value), STARTS[i]) == 0) {
            return (Start)i;
        }
    }
    refuse(path, "start: must be \"spot\", \"sine\" or \"uniform\"");
}

double input_dt_max(const Input *input) {
    double dx = input->length_x / (double)(input->nx - 1), dy = input->length_y / (double)(input->ny - 1);
    return 1 / (2 * input->diffusivity * (1 / (dx * dx) + 1 / (dy * dy)));
}

/* What concerns more than one field. */
static void check(const char *path, Input *input) {
    double dt_max = input_dt_max(input);
    if (input->dt > dt_max) {
        refuse(path, "dt: must be at most %.10g, the largest stable step of this grid, not %.10g", dt_max, input->dt);
    }
    if (input->dt == 0) {
        input->dt = SAFETY * dt_max;
    }
    if (input->mode_x > input->nx - 2) {
        refuse(path, "mode_x: must be at most nx - 2 = %ld, not %ld", input->nx - 2, input->mode_x);
    }
    if (input->mode_y > input->ny - 2) {
        refuse(path, "mode_y: must be at most ny - 2 = %ld, not %ld", input->ny - 2, input->mode_y);
    }
    if (input->every > input->steps) {
        refuse(path, "every: must be at most steps = %ld, not %ld", input->steps, input->every);
    }
    long least = (input->steps + FRAMES_MAX - 2) / (FRAMES_MAX - 1);
    if (input->every < least) {
        refuse(path, "every: must be at least %ld, or there are more than %d frames", least, FRAMES_MAX);
    }
}

Input input_read(const char *path) {
    Input input = {0};
    json_t *object = load(path);
    refuse_unknown(path, object);
    for (int i = 0; i < FIELDS_COUNT; i++) {
        take(path, object, &FIELDS[i], &input);
    }
    input.start = take_start(path, object);
    json_decref(object);
    check(path, &input);
    return input;
}
